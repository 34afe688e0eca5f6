"""GQA as released becomes questions with one short answer."""

import json
from copy import deepcopy
from pathlib import Path

import pytest

from tests.reader_releases import GQA, write_released_pictures
from tests.reader_testing import read_both, turns_of
from training.data.readers.gqa import read_gqa

SHORT = "\nAnswer the question using a single word or phrase."


def write(root, content=GQA):
    """The arguments of the reader."""
    (root / "train_balanced_questions.json").write_text(json.dumps(content))
    return {"questions": root / "train_balanced_questions.json", "images": write_released_pictures(root / "images")}


def test_a_row_per_question(tmp_path):
    rows, problems = read_both(read_gqa, **write(tmp_path))
    assert problems == []
    assert [(turns_of(row), row["question_type"], Path(row["images"][0]).name) for row in rows] == [
        (["What is on the white wall?" + SHORT, "pipe"], "query", "2405722.jpg"),
        (["Is that pipe red?" + SHORT, "no"], "verify", "2405722.jpg"),
        (["Is it overcast?" + SHORT, "no"], "verify", "n161313.jpg"),
    ]
    assert rows[0]["task"] == "question"
    assert rows[0]["origin"].endswith("train_balanced_questions.json, question '07333408'")


def test_a_row_per_picture(tmp_path):
    rows, _ = read_both(read_gqa, **write(tmp_path), per_picture=True)
    assert [len(turns_of(row)) for row in rows] == [4, 2]
    assert [row["question_type"] for row in rows] == [None, "verify"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("text", "needed are the fields question, imageId, answer, types"),
        ({"question": ""}, "question must be text"),
        ({"answer": None}, "answer must be text"),
        ({"imageId": ["2405722"]}, "imageId must be a number or a text"),
        ({"imageId": "../outside"}, "picture '../outside.jpg' does not exist"),
        ({"types": None}, "types: needed are the fields structural, not None"),
        ({"types": {"structural": 5}}, "types: structural must be text, not 5"),
    ],
)
def test_bad_entries_are_named(tmp_path, record, message):
    content = deepcopy(GQA)
    content["07333405"] = {**content["07333405"], **record} if isinstance(record, dict) else record
    rows, (problem,) = read_both(read_gqa, **write(tmp_path, content))
    assert f"train_balanced_questions.json, question '07333405': {message}" in problem
    assert len(rows) == 2


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="train_balanced_questions.json must hold a dict, not a list"):
        list(read_gqa(**write(tmp_path, [])))
