"""easy-VQA (github.com/vzhou842/easy-VQA, MIT): questions about a shape in a picture of 64 pixels, with 13 answers.

The PyPI package `easy-vqa` carries all of it: 4000 pictures with 38575 questions to train on, 1000 with 9673 to test.
"""

import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import datasets

from .. import schema
from ..entries.bad_rows import OnError
from ..entries.entry import Entry, load_entries
from ..entries.files import find_picture, read_json
from ..entries.values import quoted, text

SPLITS = ("train", "test")


def load_easy_vqa(split: str, folder: str | Path | None = None, on_error: OnError = "raise") -> datasets.Dataset:
    """All questions of a split, checked: see `read_easy_vqa` and `load_entries`."""
    return load_entries(read_easy_vqa, f"easy-VQA ({split})", on_error, "answer", split=split, folder=folder)


def read_easy_vqa(split: str, folder: str | Path | None = None) -> Iterator[Entry]:
    """Reads easy-VQA: one row of task "question" for each question, picture by picture. `question_type` is "yes_no",
    "shape" or "colour".

    Args:
        split: "train" or "test".
        folder: with `train/questions.json` (a list of `[question, answer, number of the picture]`) and
            `train/images/0.png` …, and the same of `test`; by default that of the installed package.

    Raises:
        ValueError: the package is not installed, another split, a file that is missing or of another form.
    """
    if split not in SPLITS:
        raise ValueError(f"easy-VQA has no split {split!r}: choose {' or '.join(SPLITS)}")
    folder = easy_vqa_folder() if folder is None else Path(folder)
    file = folder / split / "questions.json"
    if not file.is_file():
        raise ValueError(f"{file} does not exist: give the folder that holds train/ and test/ of easy-VQA")
    for number, entry in enumerate(read_json(file, list)):
        yield Entry(f"{file}, entry {number}", partial(_row, entry, folder / split / "images"))


def _row(entry: object, images: Path) -> dict:
    if not isinstance(entry, list) or len(entry) != 3 or type(entry[2]) is not int:
        raise ValueError(f"needed is [question, answer, number of the picture], not {quoted(entry)}")
    question, answer = text(entry[0], "the question"), text(entry[1], "the answer")
    messages = schema.exchange([schema.image(), schema.text(question)], [schema.text(answer)])
    picture = find_picture(f"{entry[2]}.png", images)
    return schema.row("question", images=[picture], messages=messages, question_type=_kind(question, answer))


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
