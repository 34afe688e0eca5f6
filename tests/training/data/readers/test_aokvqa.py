"""A-OKVQA as released, with its choices and with its free answers."""

import json

import pytest

from tests.reader_releases import AOKVQA, write_released_pictures
from tests.reader_testing import read_both, turns_of
from training.data.readers.aokvqa import read_aokvqa

LETTER = "Answer with the option's letter from the given choices directly."


def write(root, content=AOKVQA):
    """The arguments of the reader."""
    (root / "aokvqa_v1p0_train.json").write_text(json.dumps(content))
    return {"questions": root / "aokvqa_v1p0_train.json", "images": write_released_pictures(root / "train2017")}


def test_choices(tmp_path):
    rows, problems = read_both(read_aokvqa, **write(tmp_path))
    assert problems == [] and len(rows) == 2
    assert turns_of(rows[0]) == [
        f"What is in his mouth?\nA. toothpick\nB. food\nC. cigarette\nD. cab\n{LETTER}",
        "C",
    ]
    assert rows[0]["task"] == "question" and rows[0]["question_type"] is None
    assert rows[0]["images"] == [str(tmp_path / "train2017" / "000000299207.jpg")]
    assert rows[0]["origin"].endswith("aokvqa_v1p0_train.json, question '22MexNkBPpdZGX6sxbxVBH'")


def test_choices_in_several_orders(tmp_path):
    rows, _ = read_both(read_aokvqa, **write(tmp_path), orders=4)
    asked = [turns_of(row) for row in rows]
    assert [answer for _, answer in asked] == ["C", "B", "A", "D"] * 2
    assert asked[1][0].split("\n")[1:5] == ["A. food", "B. cigarette", "C. cab", "D. toothpick"]
    for question, answer in asked:
        assert f"\n{answer}. cigarette\n" in question


def test_free_answers_without_the_difficult_ones(tmp_path):
    (row,), problems = read_both(read_aokvqa, **write(tmp_path), form="answer")
    assert problems == []
    short = "Answer the question using a single word or phrase."
    assert turns_of(row) == [f"What is in his mouth?\n{short}", "food"]  # as often as cigar


@pytest.mark.parametrize(
    ("form", "changes", "message"),
    [
        ("choice", {"choices": ["a", "b", "c"]}, "there must be 4 choices, not 3"),
        ("choice", {"choices": ["a", "b", "c", 4]}, "a choice must be text, not 4"),
        ("choice", {"choices": None}, "choices must be a list"),
        ("choice", {"correct_choice_idx": 4}, "correct_choice_idx must be the place of a choice from 0 on, not 4"),
        ("choice", {"correct_choice_idx": None}, "correct_choice_idx must be a whole number"),
        ("choice", {"correct_choice_idx": True}, "correct_choice_idx must be a whole number"),
        ("choice", {"image_id": 7}, "picture '000000000007.jpg' does not exist"),
        ("choice", {"question": 7}, "entry 0: question must be text, not 7"),
        ("choice", {"question_id": 7}, "entry 0: question_id must be text, not 7"),
        ("answer", {"direct_answers": []}, "direct_answers has no answer"),
        ("answer", {"direct_answers": [7]}, "an answer in direct_answers must be text, not 7"),
    ],
)
def test_bad_entries_are_named(tmp_path, form, changes, message):
    content = [AOKVQA[0] | changes, *AOKVQA]
    rows, (problem,) = read_both(read_aokvqa, **write(tmp_path, content), form=form)
    assert message in problem and "aokvqa_v1p0_train.json" in problem
    assert len(rows) == (2 if form == "choice" else 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"form": "letter"}, 'form must be "choice" or "answer"'),
        ({"orders": 5}, "orders must be 1 to 4"),
        ({"form": "answer", "orders": 2}, 'and 1 of "answer", not 2'),
    ],
)
def test_other_arguments_are_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        read_aokvqa(**write(tmp_path), **wrong)
