"""Questions that ten people answered, in the format of VQA (https://visualqa.org/vqa_v2_teaser.html): VQAv2, OK-VQA."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ..entries.entry import Entry
from ..entries.files import find_picture, read_json
from ..entries.records import ById, Place, good_records, whole_number
from ..entries.values import identifier, listed, quoted, text
from .questions import SHORT_ANSWER, Question, question_entries


def read_vqa_v2(
    questions: str | Path,
    annotations: str | Path,
    images: str | Path,
    subset: str = "train2014",
    per_picture: bool = False,
) -> Iterator[Entry]:
    """VQAv2 (Goyal et al. 2017; https://visualqa.org/download.html, CC BY 4.0, pictures as on Flickr). The answer is
    the one that most people gave, `multiple_choice_answer`; the other nine are left out, as LLaVA-1.5 does.
    `question_type` is the file's: how the question begins, such as "how many".

    Args:
        questions, annotations: v2_OpenEnded_mscoco_train2014_questions.json and v2_mscoco_train2014_annotations.json.
        images: the folder of COCO's train2014.zip, with COCO_train2014_000000000009.jpg and others.
        subset: of COCO, as the names of the pictures have it: "train2014" or "val2014".
        per_picture: one row per picture, with its questions as turns, in place of one per question.

    Raises:
        ValueError: for a file that is not in this format.
    """

    def answer(annotation: dict) -> str:
        return text(annotation.get("multiple_choice_answer"), "multiple_choice_answer")

    return question_entries(_places(questions, annotations, images, subset, answer), per_picture)


def read_ok_vqa(
    questions: str | Path,
    annotations: str | Path,
    images: str | Path,
    subset: str = "train2014",
    per_picture: bool = False,
) -> Iterator[Entry]:
    """OK-VQA (Marino et al. 2019; https://okvqa.allenai.org/download.html, version 1.1, no licence stated), with
    questions that need knowledge from elsewhere. The answer is the one that most people gave, the first of those with
    as many; blank ones do not count. `question_type` is the file's code of the topic, such as "four".

    Args:
        questions, annotations: OpenEnded_mscoco_train2014_questions.json and mscoco_train2014_annotations.json.
        images, subset, per_picture: as for `read_vqa_v2`.

    Raises:
        ValueError: for a file that is not in this format.
    """
    return question_entries(_places(questions, annotations, images, subset, _most_given), per_picture)


def most_common(answers: list, what: str) -> str:
    """The text that stands most often in a list of texts, the first of those that do; blank ones do not count."""
    if strange := [answer for answer in answers if not isinstance(answer, str)]:
        raise ValueError(f"an answer in {what} must be text, not {quoted(strange[0])}")
    counts = Counter(answer for answer in answers if answer.strip())
    if not counts:
        raise ValueError(f"{what} has no answer")
    return text(counts.most_common(1)[0][0], f"the most common answer in {what}")


def _places(
    questions: str | Path, annotations: str | Path, images: str | Path, subset: str, answer: Callable[[dict], str]
) -> Iterator[Place[Question]]:
    bad, folder = [], Path(images)
    asked, answered = (
        good_records(
            listed(read_json(Path(file), dict).get(key), f"{file}, {key!r}"), f"{file}, {key!r}", bad, **fields
        ).values()
        for file, key, fields in (
            (questions, "questions", {"question_id": identifier, "image_id": whole_number, "question": text}),
            (annotations, "annotations", {"question_id": identifier}),
        )
    )
    answers = ById("annotation", answered, "question_id")

    def question(record: dict) -> Question:
        picture = find_picture(f"COCO_{subset}_{record['image_id']:012}.jpg", folder)
        annotation = answers[record["question_id"]]
        kind = text(annotation.get("question_type"), "question_type")
        return Question(picture, f"{record['question']}\n{SHORT_ANSWER}", answer(annotation), kind)

    for record in asked:
        yield f"{questions}, question {quoted(record['question_id'])}", partial(question, record)
    yield from bad


def _most_given(annotation: dict) -> str:
    given = listed(annotation.get("answers"), "answers")
    return most_common([one.get("answer") if isinstance(one, dict) else one for one in given], "answers")
