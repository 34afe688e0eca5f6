"""IconQA: questions about diagrams, answered by a choice of texts, a choice of pictures, or a word to fill in."""

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from training.data.entries.files import find_picture, read_json
from training.data.entries.values import listed, quoted, text
from training.data.readers.questions import OPTION_LETTER
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.released import checked, released
from training.evaluation.benchmark.understanding.vqa import QUESTIONS, SHORT_ANSWER
from training.evaluation.metrics import normalize_answer
from training.evaluation.report import Row

SPLITS = ("test", "val")
LETTERS = "ABCDE"
SKILLS = (
    "geometry", "counting", "comparing", "spatial", "scene", "pattern", "time", "fraction", "estimation", "algebra",
    "measurement", "commonsense", "probability",
)  # fmt: skip


def read(task: str, data: Path, split: str) -> list[Example]:
    """The problems of a sub-task. The truth is the answer as text (of a choice its place), and the skills it needs."""
    problems = read_json(file := released(data, "problems.json", "iconqa_data/problems.json"), dict)
    splits = read_json(file.with_name("pid_splits.json"), dict)
    skills_file = file.with_name("pid2skills.json")
    skills = read_json(skills_file, dict) if skills_file.exists() else {}
    keys = listed(splits.get(f"{task}_{split}"), f"pid_splits.json: '{task}_{split}'")
    if unknown := [key for key in keys if key not in problems]:
        raise ValueError(f"{file} has no problem {unknown[0]!r}, which pid_splits.json names")
    records = checked([problems[key] for key in keys], file, question=text, answer=_answer)
    folder = file.parent / "iconqa" / split / task
    return [
        _example(task, key, record, folder / key, tuple(listed(skills.get(key, []), f"{skills_file}: {key}")))
        for key, record in zip(keys, records, strict=True)
    ]


def _example(task: str, key: str, record: dict, folder: Path, skills: tuple[str, ...]) -> Example:
    request, choices, names = record["question"], (), ["image.png"]
    if task != "fill_in_blank":
        given = [text(choice, f"problem {key}: a choice") for choice in listed(record.get("choices"), f"problem {key}")]
        if not str(record["answer"]).isdigit() or int(record["answer"]) >= len(given) or len(given) > len(LETTERS):
            raise ValueError(f"problem {key}: the answer must be the place of one of 2 to 5 choices")
        choices = tuple(given) if task == "choose_txt" else tuple(LETTERS[: len(given)])
    if task == "choose_txt":
        request = f"{request}\nOptions: {', '.join(choices)}."
    if task == "choose_img":
        names += given
        request = f"{request}\nThe first picture is the question's, the others are the choices {', '.join(choices)}."
    images = tuple(Path(find_picture(name, folder)) for name in names)
    return Example(key, request, images, (str(record["answer"]), skills), choices=choices)


def given_answer(example: Example, answer: str) -> str:
    """In the form of the truth: the place of a choice, or a filled in word as it is compared."""
    return str(example.choices.index(answer)) if example.choices else normalize_answer(answer)


def score(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    """`accuracy`, and that of the problems that need a skill, such as `counting_accuracy`, where they are known."""
    right = defaultdict(list)
    for example, answer in zip(examples, answers, strict=True):
        truth, skills = example.truth
        truth = truth if example.choices else normalize_answer(truth)
        for group in ("", *(f"{skill}_" for skill in skills)):
            right[group].append(given_answer(example, answer) == truth)
    return {"num_examples": len(examples)} | {f"{group}accuracy": fmean(values) for group, values in right.items()}


def submission(task: str, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, str]:
    """The file for the official sub_acc.py: {"results": {problem: answer}}."""
    rows = {example.key: given_answer(example, answer) for example, answer in zip(examples, answers, strict=True)}
    return {f"{task}.json": json.dumps({"results": rows}, indent=2)}


def _answer(value: object, what: str) -> object:
    if not isinstance(value, int | str):
        raise ValueError(f"{what} must be a number or a text, not {quoted(value)}")
    return value


def _benchmark(task: str, form: str) -> Benchmark:
    return Benchmark(
        name=f"iconqa-{task.replace('_', '-')}",
        answer="text" if task == "fill_in_blank" else "choice",
        splits=SPLITS,
        files=f"problems.json, pid_splits.json, pid2skills.json (for the skills) and iconqa/test/{task}, in the folder "
        "or in iconqa_data",
        definition="Lu et al. 2021 and their sub_acc.py; of choices the most likely one",
        read=partial(read, task),
        score=score,
        rows=(QUESTIONS, Row("accuracy", "accuracy"), *(Row(f"  {skill}", f"{skill}_accuracy") for skill in SKILLS)),
        submission=partial(submission, task),
        answer_form=form,
    )


ICONQA_TEXTS = _benchmark("choose_txt", "Short answer:")
ICONQA_PICTURES = _benchmark("choose_img", OPTION_LETTER)
ICONQA_BLANK = _benchmark("fill_in_blank", SHORT_ANSWER)
