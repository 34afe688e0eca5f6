"""POPE: is an object there? Half of those asked about are not: random, frequent, or such as are often with others."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from training.data.entries.files import find_picture
from training.data.entries.values import identifier, quoted, text
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.released import checked, read_text, released
from training.evaluation.benchmark.understanding.vqa import QUESTIONS, SHORT_ANSWER
from training.evaluation.metrics import YesNo
from training.evaluation.report import Row

WAYS = ("random", "popular", "adversarial")
NUMBERS = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "yes_ratio": "yes ratio"}


def read(data: Path, split: str) -> list[Example]:
    """Lines {"question_id", "image", "text", "label"}; of "all" those of the three files, one after the other."""
    examples = []
    for way in WAYS if split == "all" else [split]:
        file = released(data, f"coco_pope_{way}.json", f"coco/coco_pope_{way}.json")
        for record in checked(read_lines(file), file, question_id=identifier, image=text, text=text, label=_label):
            picture = Path(find_picture(record["image"], data / "val2014", data / "images", data))
            key = f"{way}-{record['question_id']}"
            examples.append(Example(key, record["text"], (picture,), record["label"], group=way))
    return examples


def read_lines(file: Path) -> list[object]:
    """Values of a file that has one JSON value a line; else a ValueError."""
    values = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        try:
            values += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{file}, line {number} is not valid JSON: {error}") from error
    return values


def yes_or_no(answer: str) -> str:
    """As POPE's evaluate.py takes an answer: "no" if no, No or not is a word of its first sentence, else "yes"."""
    words = answer.split(".")[0].replace(",", "").split()
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def score(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    """`YesNo`'s five numbers of each way, such as `popular_f1`, and their means over the ways, such as `f1`."""
    metrics: dict[str, YesNo] = {}
    for example, answer in zip(examples, answers, strict=True):
        metric = metrics.setdefault(example.group, YesNo())
        metric.add_batch(predictions=[yes_or_no(answer)], references=[example.truth])
    of_ways = {way: metric.compute() for way, metric in metrics.items()}
    results = {f"{way}_{name}": value for way, values in of_ways.items() for name, value in values.items()}
    means = {name: fmean(values[name] for values in of_ways.values()) for name in NUMBERS}
    return {"num_examples": len(examples)} | means | results


def submission(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, str]:
    """The files for POPE's evaluate.py, one for each way: lines {"question", "answer"} in the order of its file."""
    lines: dict[str, list[str]] = {}
    for example, answer in zip(examples, answers, strict=True):
        line = json.dumps({"question": example.request, "answer": answer})
        lines.setdefault(f"coco_pope_{example.group}_answers.json", []).append(line + "\n")
    return {name: "".join(of_way) for name, of_way in lines.items()}


def _label(value: object, what: str) -> str:
    if value not in ("yes", "no"):
        raise ValueError(f'{what} must be "yes" or "no", not {quoted(value)}')
    return value


POPE = Benchmark(
    name="pope",
    answer="text",
    splits=("all", *WAYS),
    files="coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json and the pictures in val2014",
    definition="Li et al. 2023 and their evaluate.py",
    read=read,
    score=score,
    rows=(
        QUESTIONS,
        *(Row(f"mean {title} of the ways", name) for name, title in NUMBERS.items()),
        *(Row(f"  {way}: {title}", f"{way}_{name}") for way in WAYS for name, title in NUMBERS.items()),
    ),
    submission=submission,
    answer_form=SHORT_ANSWER,
)
