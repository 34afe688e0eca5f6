"""MMLU: exam questions in text alone, with four choices: what a language model still knows after it learned to see."""

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.released import read_text, released
from training.evaluation.benchmark.understanding.vqa import QUESTIONS
from training.evaluation.report import Row

LETTERS = ("A", "B", "C", "D")
SHOTS = 5
ZERO_SHOT = "-zero-shot"  # suffix of splits without examples before the question
SPLITS = ("test", "val", f"test{ZERO_SHOT}", f"val{ZERO_SHOT}")


def read(data: Path, split: str) -> list[Example]:
    """The questions of all subjects, each after five answered ones of it, as the official evaluate.py asks."""
    part, shots = split.removesuffix(ZERO_SHOT), 0 if split.endswith(ZERO_SHOT) else SHOTS
    folder = released(data, part, f"data/{part}", remedy=f"It holds tables such as astronomy_{part}.csv.")
    examples = []
    for file in sorted(folder.glob(f"*_{part}.csv")):
        subject = file.stem.removesuffix(f"_{part}")
        # the double space is the original's
        prompt = f"The following are multiple choice questions (with answers) about  {subject.replace('_', ' ')}.\n\n"
        if shots:
            shown = _read_table(folder.parent / "dev" / f"{subject}_dev.csv")[:shots]
            prompt += "".join(f"{_question(row)} {row[-1]}\n\n" for row in shown)
        examples += [
            Example(f"{subject}-{number}", prompt + _question(row), truth=row[-1], group=subject, choices=LETTERS)
            for number, row in enumerate(_read_table(file))
        ]
    return examples


def _read_table(file: Path) -> list[list[str]]:
    """Rows of a question, four choices, and the letter of the right one."""
    if not file.is_file():
        raise ValueError(f"There is no {file}, which holds the answered questions that are shown before each question")
    rows = list(csv.reader(io.StringIO(read_text(file), newline="")))
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 + len(LETTERS) or row[-1] not in LETTERS:
            raise ValueError(f"{file}, row {number} must be a question, four choices and one of the letters A to D")
    return rows


def _question(row: list[str]) -> str:
    question, *choices, _ = row
    lines = [f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    return "".join([question, *lines, "\nAnswer:"])


def score(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    """`accuracy` over all questions, `subjects_accuracy`, the mean of the subjects' accuracies, and those, such as
    `astronomy_accuracy`."""
    right = defaultdict(list)
    for example, answer in zip(examples, answers, strict=True):
        right[example.group].append(answer == example.truth)
    of_subjects = {f"{subject}_accuracy": fmean(values) for subject, values in right.items()}
    return {
        "num_examples": len(examples),
        "accuracy": fmean(value for values in right.values() for value in values),
        "subjects_accuracy": fmean(of_subjects.values()),
    } | of_subjects


MMLU = Benchmark(
    name="mmlu",
    answer="choice",
    splits=SPLITS,
    files="dev/astronomy_dev.csv, test/astronomy_test.csv and so on, in the folder or in data",
    definition="Hendrycks et al. 2021 and their evaluate.py: the likeliest of A to D, after five answered questions or "
    "none; the question is a user's turn, the letter the beginning of the answer",
    read=read,
    score=score,
    rows=(QUESTIONS, Row("accuracy", "accuracy"), Row("mean of the subjects", "subjects_accuracy")),
)
