import pytest

from tests.benchmark_releases import write_easy_vqa, write_json
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.understanding import EASY_VQA


def test_answers_beside_the_likeliest_of_their_kind(tmp_path):
    examples = EASY_VQA.read(write_easy_vqa(tmp_path), "test")
    assert [example.truth for example in examples] == [("shape", "triangle"), ("colour", "red"), ("yes_no", "no")]
    results = EASY_VQA.score(examples, ["Triangle.", "blue", "no"], Networks())
    assert results["accuracy"] == pytest.approx(2 / 3) and results["majority"] == 1
    assert (results["shape_accuracy"], results["colour_accuracy"], results["yes_no_accuracy"]) == (1, 0, 1)


def test_the_data_may_come_with_the_package(tmp_path, monkeypatch):
    (tmp_path / "easy_vqa").mkdir()
    (tmp_path / "easy_vqa" / "__init__.py").touch()
    write_easy_vqa(tmp_path / "easy_vqa" / "data")
    monkeypatch.syspath_prepend(tmp_path)
    assert EASY_VQA.packaged() == tmp_path / "easy_vqa" / "data"
    assert len(EASY_VQA.read(EASY_VQA.packaged(), "test")) == 3


def test_another_form_is_refused(tmp_path):
    write_easy_vqa(tmp_path)
    write_json(tmp_path / "test" / "questions.json", [["what is it?", "red"]])
    with pytest.raises(ValueError, match=r"entry 0 must be \[question, answer, picture\]"):
        EASY_VQA.read(tmp_path, "test")
