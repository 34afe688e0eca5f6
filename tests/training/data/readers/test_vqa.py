"""VQAv2 and OK-VQA as released become questions with the answer that most people gave."""

import json
from copy import deepcopy
from pathlib import Path

import pytest

from tests.reader_releases import OKVQA_ANNOTATIONS, VQA_QUESTIONS, VQAV2_ANNOTATIONS, write_released_pictures
from tests.reader_testing import read_both, turns_of
from training.data.readers.vqa import read_ok_vqa, read_vqa_v2

SHORT = "\nAnswer the question using a single word or phrase."
QUESTIONS = "v2_OpenEnded_mscoco_train2014_questions.json"


def write(root: Path, annotations: dict = VQAV2_ANNOTATIONS, questions: dict = VQA_QUESTIONS) -> dict:
    """The arguments of a reader."""
    files = {"questions": root / QUESTIONS, "annotations": root / "v2_mscoco_train2014_annotations.json"}
    files["questions"].write_text(json.dumps(questions))
    files["annotations"].write_text(json.dumps(annotations))
    return files | {"images": write_released_pictures(root / "train2014")}


def test_a_row_per_question_of_vqa_v2(tmp_path):
    rows, problems = read_both(read_vqa_v2, **write(tmp_path))
    assert problems == []
    assert [(turns_of(row), row["question_type"], Path(row["images"][0]).name) for row in rows] == [
        (["How many cookies can be seen?" + SHORT, "2"], "how many", "COCO_train2014_000000000009.jpg"),
        (["Is it day?" + SHORT, "yes"], "is it", "COCO_train2014_000000000025.jpg"),
        (
            ["What color are the dishes?" + SHORT, "pink and yellow"],
            "what color are the",
            "COCO_train2014_000000000009.jpg",
        ),
    ]
    assert {row["task"] for row in rows} == {"question"}
    assert rows[1]["origin"] == f"{tmp_path / QUESTIONS}, question 25000"


def test_a_row_per_picture(tmp_path):
    rows, _ = read_both(read_vqa_v2, **write(tmp_path), per_picture=True)
    assert [(turns_of(row), row["question_type"]) for row in rows] == [
        (
            [
                *("How many cookies can be seen?" + SHORT, "2"),
                *("What color are the dishes?" + SHORT, "pink and yellow"),
            ],
            None,
        ),
        (["Is it day?" + SHORT, "yes"], "is it"),
    ]
    assert rows[0]["origin"].endswith("question 9002 and others about its picture")


def test_ok_vqa_takes_the_first_of_the_most_common_answers(tmp_path):
    rows, problems = read_both(read_ok_vqa, **write(tmp_path, OKVQA_ANNOTATIONS))
    assert problems == []
    assert [(turns_of(row)[1], row["question_type"]) for row in rows] == [
        ("three", "other"),
        ("yes", "eight"),
        ("pink", "seven"),
    ]


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("questions", {"question": None}, "'questions', entry 0: question must be text, not None"),
        ("questions", {"question_id": [9]}, "'questions', entry 0: question_id must be a number or a text"),
        ("questions", {"image_id": "9"}, "'questions', entry 0: image_id must be a whole number"),
        ("questions", {"image_id": 77}, "question 9002: picture 'COCO_train2014_000000000077.jpg' does not exist"),
        ("questions", {"question_id": 5}, "question 5: no annotation has the question_id 5"),
        ("annotations", {"question_id": 9002}, "question 9002: more than one annotation has the question_id 9002"),
        ("annotations", {"question_type": 5}, "question 9000: question_type must be text, not 5"),
        ("annotations", {"multiple_choice_answer": " "}, "question 9000: multiple_choice_answer must be text, not ' '"),
    ],
)
@pytest.mark.parametrize("per_picture", [False, True])
def test_bad_entries_are_named(tmp_path, file, changes, message, per_picture):
    contents = {"questions": deepcopy(VQA_QUESTIONS), "annotations": deepcopy(VQAV2_ANNOTATIONS)}
    contents[file][file][0] |= changes
    rows, problems = read_both(read_vqa_v2, **write(tmp_path, **contents), per_picture=per_picture)
    assert message in problems[0] and str(tmp_path) in problems[0]
    assert sum(len(row["messages"]) // 2 for row in rows) == 3 - len(problems)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (None, "answers must be a list"),
        ([], "answers has no answer"),
        ([{"answer": ""}], "answers has no answer"),
        ([{"answer": 5}], "an answer in answers must be text, not 5"),
        ([{}], "an answer in answers must be text, not None"),
        (["yes", 7], "an answer in answers must be text, not 7"),
    ],
)
def test_bad_answers_of_ok_vqa_are_named(tmp_path, answers, message):
    annotations = deepcopy(OKVQA_ANNOTATIONS)
    annotations["annotations"][2]["answers"] = answers
    rows, (problem,) = read_both(read_ok_vqa, **write(tmp_path, annotations))
    assert len(rows) == 2
    assert f"question 25000: {message}" in problem


@pytest.mark.parametrize("content", [{}, {"questions": {}}, [], "text"])
def test_other_files_are_refused(tmp_path, content):
    with pytest.raises(ValueError, match=QUESTIONS):
        list(read_vqa_v2(**write(tmp_path, questions=content)))
