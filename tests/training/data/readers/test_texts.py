"""Data sets of text alone: Alpaca, and folders of documents."""

import json

import pytest

from tests.reader_testing import read_entries
from training.data import schema
from training.data.readers.alpaca import read_alpaca
from training.data.readers.text_files import read_text_files

ALPACA = [
    {"instruction": "Give three tips.", "input": "", "output": "1. Eat well."},
    {"instruction": "Name the odd one out.", "input": "Twitter, Telegram", "output": "Telegram"},
]


def write(root, content):
    (root / "alpaca_data.json").write_text(json.dumps(content, indent=4))
    return str(root / "alpaca_data.json")


def test_alpaca(tmp_path):
    rows, problems = read_entries(read_alpaca, file=write(tmp_path, ALPACA))
    asked = ("Give three tips.", "Name the odd one out.\nTwitter, Telegram")
    assert not problems and rows == [
        schema.row("conversation", messages=schema.exchange([schema.text(ask)], [schema.text(entry["output"])]))
        for ask, entry in zip(asked, ALPACA, strict=True)
    ]


def test_bad_entries_of_alpaca_are_named(tmp_path):
    bad = [
        ("text", "an entry must be an object with instruction"),
        ({"text": "Below is an instruction"}, "an entry must be an object with instruction"),
        (ALPACA[0] | {"instruction": 5}, "the instruction must be text, not 5"),
        (ALPACA[0] | {"input": ["a"]}, "the input must be text, not ['a']"),
        (ALPACA[0] | {"output": ""}, "the output must be text, not ''"),
    ]
    rows, problems = read_entries(read_alpaca, file=write(tmp_path, [*ALPACA, *(entry for entry, _ in bad)]))
    assert len(rows) == 2 and len(problems) == len(bad)
    for number, (problem, (_, reason)) in enumerate(zip(problems, bad, strict=True), 2):
        assert problem.startswith(f"alpaca_data.json, entry {number}: ") and reason in problem
    with pytest.raises(ValueError, match="alpaca_data.json must hold a list, not a dict"):
        list(read_alpaca(write(tmp_path, {})))


def test_a_row_for_each_text_file(tmp_path):
    folder = tmp_path / "texts"
    documents = {"a.txt": "A page.\n\nWith <image> in it.\n", "b/c.txt": "Another."}
    for name, text in documents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "notes.md").write_text("No document.")
    (folder / "d.txt").write_text(" \n")
    (folder / "e.txt").write_bytes(b"\xff")
    (tmp_path / "outside.txt").write_text("Outside.")
    (folder / "f.txt").symlink_to(tmp_path / "outside.txt")
    rows, problems = read_entries(read_text_files, folder=str(folder))
    assert rows == [
        schema.row("text_only", messages=[{"role": "assistant", "content": [schema.text(text)]}])
        for text in documents.values()
    ]
    for problem, (name, reason) in zip(
        problems, [("d", "the text must be text"), ("e", "cannot be read as text"), ("f", "leads out")], strict=True
    ):
        assert problem.startswith(f"{name}.txt: ") and reason in problem
    with pytest.raises(ValueError, match="nowhere holds no text files"):
        list(read_text_files(folder / "nowhere"))
