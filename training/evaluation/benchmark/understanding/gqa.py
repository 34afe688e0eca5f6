"""GQA: questions made from graphs of scenes, with one true answer each."""

import json
from collections.abc import Sequence
from pathlib import Path

from training.data.entries.files import find_picture, read_json
from training.data.entries.values import identifier, text
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.released import checked, released
from training.evaluation.benchmark.understanding.vqa import QUESTIONS, SHORT_ANSWER
from training.evaluation.metrics import GqaAccuracy
from training.evaluation.report import Row

FILES = {
    "testdev": "testdev_balanced_questions.json",
    "val": "val_balanced_questions.json",
    "submission": "submission_all_questions.json",
}
STRUCTURAL = ("verify", "query", "choose", "logical", "compare")
SEMANTIC = {"obj": "object", "attr": "attribute", "cat": "category", "rel": "relation", "global": "scene"}


def read(data: Path, split: str) -> list[Example]:
    """Questions by their id. Those of "submission", for the server, have no answers."""
    file = released(data, FILES[split], f"questions1.2/{FILES[split]}", f"questions/{FILES[split]}")
    folder = released(data, "images", remedy="It holds the pictures.")
    questions = read_json(file, dict)
    records = checked(questions.values(), file, question=text, imageId=identifier)
    examples = []
    for key, record in zip(questions, records, strict=True):
        picture = Path(find_picture(f"{record['imageId']}.jpg", folder))
        truth = None if split == "submission" else (_kinds(record, f"{file}, {key}"), text(record.get("answer"), key))
        examples.append(Example(key, record["question"], (picture,), truth))
    return examples


def _kinds(record: dict, where: str) -> tuple[str, str, str]:
    types = record.get("types")
    if not isinstance(types, dict) or not isinstance(types.get("structural"), str):
        raise ValueError(f"{where}: 'types' must be an object with structural and semantic, not {types!r}")
    form = "open" if types["structural"] == "query" else "binary"
    return form, types["structural"], SEMANTIC.get(types.get("semantic"), str(types.get("semantic")))


def score(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    """See `GqaAccuracy`: over all questions, the open and the binary ones, structural and semantic types."""
    truths = [example.truth for example in examples]
    results = {"num_examples": len(examples)}
    if None in truths:
        return results
    return results | GqaAccuracy().compute(predictions=list(answers), references=truths)


def submission(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, str]:
    """The file for the official eval.py and the server: [{"questionId": id, "prediction": text}, ...]."""
    rows = [
        {"questionId": example.key, "prediction": answer.strip().rstrip(".").lower()}
        for example, answer in zip(examples, answers, strict=True)
    ]
    return {"predictions.json": json.dumps(rows)}


GQA = Benchmark(
    name="gqa",
    answer="text",
    splits=tuple(FILES),
    files="testdev_balanced_questions.json (or in questions1.2) and the pictures in images",
    definition="Hudson and Manning 2019 and their eval.py: exact match, after lower case and without punctuation",
    read=read,
    score=score,
    rows=(
        QUESTIONS,
        Row("accuracy", "accuracy"),
        *(Row(f"  {kind}", f"{kind}_accuracy") for kind in ("binary", "open", *STRUCTURAL, *SEMANTIC.values())),
    ),
    submission=submission,
    answer_form=SHORT_ANSWER,
)
