"""Open questions that ten people answered: VQAv2, OK-VQA, A-OKVQA (direct answers) and VizWiz."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from training.data.entries.files import find_picture, read_json
from training.data.entries.records import whole_number
from training.data.entries.values import listed, text
from training.data.readers.questions import SHORT_ANSWER
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.released import checked, released, some
from training.evaluation.metrics import VqaAccuracy, normalize_vqa_answer
from training.evaluation.report import Row

UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
QUESTIONS, ACCURACY = Row("questions", "num_examples", ".0f"), Row("VQA accuracy", "accuracy")


@dataclass(frozen=True)
class CocoSplit:
    """Files of a split in the format of VQA: questions, answers (`None`: not released), pictures by their number."""

    questions: str
    answers: str | None
    folder: str
    picture: str


def read_coco_vqa(name: str, splits: Mapping[str, CocoSplit], data: Path, split: str) -> list[Example]:
    """Questions about pictures of COCO, {"questions": [...]}, with {"annotations": [...]} where there are answers."""
    of = splits[split]
    file = released(data, of.questions)
    questions = read_json(file, dict).get("questions")
    answers = {} if of.answers is None else _answers(released(data, of.answers))
    folder = released(data, of.folder, f"images/{of.folder}", remedy="It holds the pictures.")
    examples = []
    for record in checked(
        listed(questions, f"{file}: 'questions'"), file, question_id=whole_number, image_id=whole_number, question=text
    ):
        number = record["question_id"]
        if of.answers is not None and number not in answers:
            raise ValueError(
                f"{of.answers} has no answers to question {number} of {of.questions}: take both files of one release."
            )
        picture = find_picture(of.picture.format(record["image_id"]), folder)
        examples.append(Example(str(number), record["question"], (Path(picture),), answers.get(number)))
    return examples


def read_aokvqa(data: Path, split: str) -> list[Example]:
    """Those that the official evaluation counts: questions with answers that people could give freely."""
    file = released(data, f"aokvqa_v1p0_{split}.json")
    folder = released(data, f"{split}2017", f"images/{split}2017", remedy="It holds the pictures of COCO 2017.")
    examples = []
    for record in checked(read_json(file, list), file, question_id=text, image_id=whole_number, question=text):
        answers = record.get("direct_answers")
        if record.get("difficult_direct_answer"):
            continue
        if answers is None and split != "test":
            raise ValueError(f"{file}: question {record['question_id']} has no direct_answers")
        picture = find_picture(f"{record['image_id']:012}.jpg", folder)
        truth = None if answers is None else (None, _texts(answers, file))
        examples.append(Example(record["question_id"], record["question"], (Path(picture),), truth))
    return examples


def read_vizwiz(data: Path, split: str) -> list[Example]:
    """Questions of blind people, one for each picture, which names it."""
    file = released(data, f"{split}.json", f"Annotations/{split}.json")
    folder = released(data, split, f"images/{split}", f"Images/{split}", remedy="It holds the pictures.")
    examples = []
    for record in checked(read_json(file, list), file, image=text, question=text):
        truth = None
        if split != "test":
            where = f"{file}, {record['image']}"
            given = some(record.get("answers"), f"{where}: 'answers'")
            answers = [one["answer"] for one in checked(given, where, answer=_string)]
            truth = (text(record.get("answer_type"), f"{where}: 'answer_type'"), answers)
        request = f"{record['question']}\n{UNANSWERABLE}"
        examples.append(Example(record["image"], request, (Path(find_picture(record["image"], folder)),), truth))
    return examples


def score(
    examples: Sequence[Example], answers: Sequence[str], networks: Networks, leave_one_out: bool = True
) -> dict[str, float]:
    """See `VqaAccuracy`; nothing but the number of examples where the answers are not released."""
    truths = [example.truth for example in examples]
    results = {"num_examples": len(examples)}
    if None in truths:
        return results
    return results | VqaAccuracy(leave_one_out).compute(predictions=list(answers), references=truths)


def by_number(examples: Sequence[Example], answers: Sequence[str], name: str) -> dict[str, str]:
    """The file for the server of VQA: [{"question_id": number, "answer": text}, ...]."""
    rows = [
        {"question_id": int(example.key), "answer": normalize_vqa_answer(answer)}
        for example, answer in zip(examples, answers, strict=True)
    ]
    return {name: json.dumps(rows)}


def by_id(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, str]:
    """The file for A-OKVQA's evaluation: {question id: answer}."""
    rows = {example.key: normalize_vqa_answer(answer) for example, answer in zip(examples, answers, strict=True)}
    return {"predictions-da.json": json.dumps(rows)}


def by_picture(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, str]:
    """The file for VizWiz's server: [{"image": name, "answer": text}, ...]."""
    rows = [
        {"image": example.key, "answer": normalize_vqa_answer(answer)}
        for example, answer in zip(examples, answers, strict=True)
    ]
    return {"vizwiz_results.json": json.dumps(rows)}


def _answers(file: Path) -> dict[int, tuple[str, list[str]]]:
    """Of each question the kind of its answers, and all answers."""
    records = listed(read_json(file, dict).get("annotations"), f"{file}: 'annotations'")
    return {
        record["question_id"]: (
            text(record["answer_type"], f"{file}: 'answer_type'"),
            [given["answer"] for given in checked(record["answers"], file, answer=_string)],
        )
        for record in checked(records, file, question_id=whole_number, answers=some, answer_type=text)
    }


def _string(value: object, what: str) -> str:
    """The value, which may be empty: some people left an answer out."""
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a text, not {value!r}")
    return value


def _texts(values: object, file: Path) -> list[str]:
    return [_string(value, f"{file}: an answer") for value in some(values, f"{file}: answers")]


VQAV2_SPLITS = {
    "val": CocoSplit(
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
        "val2014",
        "COCO_val2014_{:012}.jpg",
    ),
    "test-dev": CocoSplit(
        "v2_OpenEnded_mscoco_test-dev2015_questions.json", None, "test2015", "COCO_test2015_{:012}.jpg"
    ),
    "test": CocoSplit("v2_OpenEnded_mscoco_test2015_questions.json", None, "test2015", "COCO_test2015_{:012}.jpg"),
}
OKVQA_SPLITS = {
    "val": CocoSplit(
        "OpenEnded_mscoco_val2014_questions.json",
        "mscoco_val2014_annotations.json",
        "val2014",
        "COCO_val2014_{:012}.jpg",
    )
}
VQAV2 = Benchmark(
    name="vqav2",
    answer="text",
    splits=tuple(VQAV2_SPLITS),
    files="v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json and the pictures in val2014; "
    "of the tests the questions and test2015",
    definition="Goyal et al. 2017; Antol et al. 2015, https://visualqa.org/evaluation.html",
    read=partial(read_coco_vqa, "vqav2", VQAV2_SPLITS),
    score=score,
    rows=(QUESTIONS, ACCURACY, *(Row(f"  {kind}", f"{kind}_accuracy") for kind in ("yes/no", "number", "other"))),
    submission=partial(by_number, name="vqa_OpenEnded_mscoco_results.json"),
    answer_form=SHORT_ANSWER,
)
OKVQA = Benchmark(
    name="okvqa",
    answer="text",
    splits=tuple(OKVQA_SPLITS),
    files="OpenEnded_mscoco_val2014_questions.json, mscoco_val2014_annotations.json and the pictures in val2014",
    definition="Marino et al. 2019, with VQA's evaluation; the answers of five people count twice",
    read=partial(read_coco_vqa, "okvqa", OKVQA_SPLITS),
    score=score,
    rows=(QUESTIONS, ACCURACY),
    submission=partial(by_number, name="okvqa_OpenEnded_mscoco_results.json"),
    answer_form=SHORT_ANSWER,
)
AOKVQA = Benchmark(
    name="aokvqa",
    answer="text",
    splits=("val", "test"),
    files="aokvqa_v1p0_val.json and the pictures in val2017",
    definition="Schwenk et al. 2022, direct answers without the difficult ones: min(n / 3, 1) over all ten, as the "
    "official eval_predictions.py, after VQA's normalisation",
    read=read_aokvqa,
    score=partial(score, leave_one_out=False),
    rows=(QUESTIONS, ACCURACY),
    submission=by_id,
    answer_form=SHORT_ANSWER,
)
VIZWIZ = Benchmark(
    name="vizwiz",
    answer="text",
    splits=("val", "test"),
    files="val.json (or Annotations/val.json) and the pictures in val",
    definition="Gurari et al. 2018, with VQA's evaluation",
    read=read_vizwiz,
    score=score,
    rows=(
        QUESTIONS,
        ACCURACY,
        *(Row(f"  {kind}", f"{kind}_accuracy") for kind in ("yes/no", "number", "other", "unanswerable")),
    ),
    submission=by_picture,
    answer_form=SHORT_ANSWER,
)
