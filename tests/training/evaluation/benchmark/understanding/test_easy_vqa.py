import sys

import pytest

from tests.benchmark_releases import write_easy_vqa
from training.evaluation.benchmark import __main__ as command
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.understanding import EASY_VQA


def test_answers_beside_the_likeliest_of_their_kind(tmp_path):
    examples = EASY_VQA.read(write_easy_vqa(tmp_path), "test")
    assert [example.truth for example in examples] == [("shape", "triangle"), ("colour", "red"), ("yes_no", "no")]
    assert [example.request for example in examples][:2] == ["what is the red shape?", "what color is it?"]
    assert examples[2].images == (tmp_path / "test" / "images" / "0.png",)
    results = EASY_VQA.score(examples, ["Triangle.", "blue", "no"], Networks())
    assert results["accuracy"] == pytest.approx(2 / 3) and results["majority"] == 1
    assert (results["shape_accuracy"], results["colour_accuracy"], results["yes_no_accuracy"]) == (1, 0, 1)


def test_the_data_may_come_with_the_package(tmp_path, monkeypatch, llava_folder, capsys):
    (tmp_path / "easy_vqa").mkdir()
    (tmp_path / "easy_vqa" / "__init__.py").touch()
    write_easy_vqa(tmp_path / "easy_vqa" / "data")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark", "easy-vqa", "--model", str(llava_folder), "--device", "cpu"])
    command.main()  # without --data and --output
    assert "likeliest answer 1.000" in capsys.readouterr().out


def test_other_data_do_not(monkeypatch, llava_folder, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "gqa", "--model", str(llava_folder)])
    with pytest.raises(SystemExit):
        command.main()
    assert "gqa needs --data, a folder with testdev_balanced_questions.json" in capsys.readouterr().err
