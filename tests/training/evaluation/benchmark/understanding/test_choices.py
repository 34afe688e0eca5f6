"""IconQA and MMLU."""

import json

import pytest

from tests.benchmark_releases import write_iconqa, write_json, write_mmlu
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.understanding import ICONQA_BLANK, ICONQA_PICTURES, ICONQA_TEXTS, MMLU


def test_iconqa_with_a_choice_of_texts(tmp_path):
    examples = ICONQA_TEXTS.read(write_iconqa(tmp_path), "test")
    assert examples[0].request == "Is it more than 3?\nOptions: yes, no." and examples[0].choices == ("yes", "no")
    assert [path.name for path in examples[0].images] == ["image.png"]
    results = ICONQA_TEXTS.score(examples, ["no", "owl"], Networks())
    assert results == {"num_examples": 2, "accuracy": 0.5, "counting_accuracy": 0.5, "comparing_accuracy": 1}
    (submitted,) = ICONQA_TEXTS.submission(examples, ["no", "owl"]).values()
    assert json.loads(submitted) == {"results": {"12": "1", "13": "2"}}


def test_iconqa_with_a_choice_of_pictures(tmp_path):
    (example,) = ICONQA_PICTURES.read(write_iconqa(tmp_path), "test")
    assert [path.name for path in example.images] == ["image.png", "choice_0.png", "choice_1.png"]
    assert example.choices == ("A", "B")
    assert ICONQA_PICTURES.score([example], ["B"], Networks())["accuracy"] == 1
    assert ICONQA_PICTURES.score([example], ["A"], Networks())["accuracy"] == 0


def test_iconqa_with_a_blank(tmp_path):
    examples = ICONQA_BLANK.read(write_iconqa(tmp_path), "test")
    assert ICONQA_BLANK.score(examples, ["4."], Networks())["accuracy"] == 1
    assert ICONQA_BLANK.score(examples, ["14"], Networks())["accuracy"] == 0


def test_iconqa_without_skills_or_with_an_answer_out_of_the_choices(tmp_path):
    (write_iconqa(tmp_path) / "iconqa_data" / "pid2skills.json").unlink()
    examples = ICONQA_TEXTS.read(tmp_path, "test")
    assert ICONQA_TEXTS.score(examples, ["no", "red"], Networks()) == {"num_examples": 2, "accuracy": 1}
    problems = tmp_path / "iconqa_data" / "problems.json"
    content = json.loads(problems.read_text())
    write_json(problems, content | {"12": content["12"] | {"answer": 2}})
    with pytest.raises(ValueError, match="problem 12: the answer must be the place of one of 2 to 5 choices"):
        ICONQA_TEXTS.read(tmp_path, "test")


def test_mmlu_asks_after_five_answered_questions(tmp_path):
    examples = MMLU.read(write_mmlu(tmp_path), "test")
    assert [example.key for example in examples] == [
        "astronomy-0", "astronomy-1", "high_school_physics-0", "high_school_physics-1"
    ]  # fmt: skip
    shown = "".join(f"{number} + 1 = ?\nA. 1\nB. 2, or more\nC. 3\nD. 4\nAnswer: B\n\n" for number in range(5))
    assert examples[2].request == (
        "The following are multiple choice questions (with answers) about  high school physics.\n\n"
        f"{shown}2 + 2 = ?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    assert examples[2].choices == ("A", "B", "C", "D") and not examples[2].images
    results = MMLU.score(examples[:3], ["D", "A", "D"], Networks())
    assert results == pytest.approx(
        {
            "num_examples": 3,
            "accuracy": 2 / 3,
            "subjects_accuracy": 0.75,
            "astronomy_accuracy": 0.5,
            "high_school_physics_accuracy": 1,
        }
    )


def test_mmlu_without_answered_questions(tmp_path):
    write_mmlu(tmp_path)
    (tmp_path / "data" / "dev" / "astronomy_dev.csv").unlink()
    example = MMLU.read(tmp_path, "test-zero-shot")[0]
    assert example.request == (
        "The following are multiple choice questions (with answers) about  astronomy.\n\n"
        "2 + 2 = ?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    with pytest.raises(ValueError, match="There is no .*astronomy_dev.csv"):
        MMLU.read(tmp_path, "test")
    (tmp_path / "data" / "dev" / "astronomy_dev.csv").write_text("What?,1,2,3,4,E\n")
    with pytest.raises(ValueError, match="astronomy_dev.csv, row 1 must be a question, four choices"):
        MMLU.read(tmp_path, "test")
