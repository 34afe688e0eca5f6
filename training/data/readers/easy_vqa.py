"""easy-VQA (github.com/vzhou842/easy-VQA, MIT): questions about a shape in a picture of 64 pixels, with 13 answers.

The PyPI package `easy-vqa` carries all of it: 4000 pictures with 38575 questions to train on, 1000 with 9673 to test.
"""

import importlib.util
from pathlib import Path

import datasets

from .. import schema
from .bad_rows import OnError, Report
from .files import find_picture, read_json
from .rows import to_row
from .values import quoted, text

SPLITS = ("train", "test")


def load_easy_vqa(split: str, folder: str | Path | None = None, on_error: OnError = "raise") -> datasets.Dataset:
    """Loads easy-VQA, one row of task "question" for each question, picture by picture. `question_type` is "yes_no",
    "shape" or "colour".

    Args:
        split: "train" or "test".
        folder: with `train/questions.json` (a list of `[question, answer, number of the picture]`) and
            `train/images/0.png` …, and the same of `test`; by default that of the installed package.
        on_error: "raise" a ValueError that lists the first bad rows, or "skip" them with one warning that names them.

    Raises:
        ValueError: the package is not installed, another split, a file that is missing or of another form, and bad
            rows as `on_error` says.
    """
    if split not in SPLITS:
        raise ValueError(f"easy-VQA has no split {split!r}: choose {' or '.join(SPLITS)}")
    folder = easy_vqa_folder() if folder is None else Path(folder)
    file = folder / split / "questions.json"
    if not file.is_file():
        raise ValueError(f"{file} does not exist: give the folder that holds train/ and test/ of easy-VQA")

    def row(entry: object) -> dict:
        if not isinstance(entry, list) or len(entry) != 3 or type(entry[2]) is not int:
            raise ValueError(f"needed is [question, answer, number of the picture], not {quoted(entry)}")
        question, answer = text(entry[0], "the question"), text(entry[1], "the answer")
        picture = find_picture(f"{entry[2]}.png", folder / split / "images")
        messages = schema.exchange([schema.image(), schema.text(question)], [schema.text(answer)])
        raw = schema.row("question", images=[picture], messages=messages, question_type=_kind(question, answer))
        return to_row(raw, needs="answer")

    report = Report(str(file), on_error)
    rows = [
        report.attempt(f"{file}, entry {number}", lambda entry=entry: row(entry))
        for number, entry in enumerate(read_json(file, list))
    ]
    rows = [row for row in rows if row is not None]
    report.close(len(rows))
    return datasets.Dataset.from_list(rows, features=schema.FEATURES)


def easy_vqa_folder() -> Path:
    """The data of the installed package `easy-vqa`.

    Raises:
        ValueError: it is not installed.
    """
    package = importlib.util.find_spec("easy_vqa")
    if package is None or package.origin is None:
        raise ValueError("the package easy-vqa is not installed: pip install easy-vqa, or give the folder of its data")
    return Path(package.origin).parent / "data"


def _kind(question: str, answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes_no"
    return "colour" if "color" in question else "shape"
