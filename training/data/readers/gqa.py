"""GQA (Hudson and Manning 2019): questions made from graphs of scenes, with one true answer each."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..entries.entry import Entry
from ..entries.files import find_picture, read_json
from ..entries.records import Place, checked
from ..entries.values import identifier, quoted, text
from .questions import SHORT_ANSWER, Question, question_entries


def read_gqa(questions: str | Path, images: str | Path, per_picture: bool = False) -> Iterator[Entry]:
    """GQA as released (https://cs.stanford.edu/people/dorarad/gqa/download.html, CC BY 4.0). The answer is the short
    one; the sentence (`fullAnswer`) and the programs are left out. `question_type` is the structural type: "verify",
    "query", "choose", "logical" or "compare".

    Args:
        questions: train_balanced_questions.json of questions1.2.zip, or another file of its form.
        images: the folder of images.zip, with 2405722.jpg and others.
        per_picture: one row per picture, with its questions as turns, in place of one per question.

    Raises:
        ValueError: for a file that is not in this format.
    """
    return question_entries(_places(questions, Path(images)), per_picture)


def _places(questions: str | Path, folder: Path) -> Iterator[Place[Question]]:
    for key, record in read_json(Path(questions), dict).items():
        yield f"{questions}, question {quoted(key)}", partial(_question, record, folder)


def _question(record: object, folder: Path) -> Question:
    checked(record, question=text, imageId=identifier, answer=text, types=_types)
    picture = find_picture(f"{record['imageId']}.jpg", folder)
    request = f"{record['question']}\n{SHORT_ANSWER}"
    return Question(picture, request, record["answer"], record["types"]["structural"])


def _types(value: object, what: str) -> dict:
    try:
        return checked(value, structural=text)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
