"""MM-Vet: open questions whose answers a GPT judges; here they are made, in the form that its evaluator takes."""

import json
from collections.abc import Sequence
from pathlib import Path

from training.data.entries.files import find_picture, read_json
from training.data.entries.values import text
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.released import checked, released
from training.evaluation.benchmark.understanding.vqa import QUESTIONS


def read(data: Path, split: str) -> list[Example]:
    file = released(data, "mm-vet.json", "mm-vet/mm-vet.json")
    questions = read_json(file, dict)
    records = checked(questions.values(), file, imagename=text, question=text)
    return [
        Example(key, record["question"], (Path(find_picture(record["imagename"], file.parent / "images")),))
        for key, record in zip(questions, records, strict=True)
    ]


def score(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    """Only how many examples there are: the score is given by the judge of the benchmark's authors."""
    return {"num_examples": len(examples)}


def submission(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, str]:
    """The file for mm-vet_evaluator.ipynb: {"v1_0": answer, ...}."""
    rows = {example.key: answer for example, answer in zip(examples, answers, strict=True)}
    return {"mm-vet.json": json.dumps(rows, indent=2, ensure_ascii=False)}


MM_VET = Benchmark(
    name="mm-vet",
    answer="text",
    splits=("test",),
    files="mm-vet.json and the pictures in images",
    definition="Yu et al. 2023; no score here: GPT-4 judges the file of the submission, by their evaluator",
    read=read,
    score=score,
    rows=(QUESTIONS,),
    submission=submission,
    max_new_tokens=1024,
)
