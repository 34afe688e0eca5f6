import json
from dataclasses import replace

import numpy as np
import pytest

from tests.setokim_testing import pictures
from training.data.entries.segmentations import draw_mask, mask_of, read_segments, run_lengths
from training.evaluation.benchmark.answering import Answer
from training.evaluation.benchmark.benchmark import Example
from training.evaluation.benchmark.predictions import Predictions

RUN = {"benchmark": "any", "model": "mine"}
KEY = Example("a/b: 1", "")


def test_run_lengths_are_those_of_coco():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)  # by columns: 0 0 1 1 1 0
    assert run_lengths(mask) == {"size": [2, 3], "counts": [2, 3, 1]}
    assert run_lengths(~mask) == {"size": [2, 3], "counts": [0, 2, 3, 1]}
    for each in (mask, ~mask, np.zeros((3, 2), bool), np.ones((3, 2), bool)):
        assert (mask_of(run_lengths(each)) == each).all()
    assert (draw_mask(read_segments(run_lengths(mask), 3, 2), 3, 2) == mask).all()  # as a reader of COCO has it


def test_answers_of_all_kinds_come_back(tmp_path):
    file = tmp_path / "results.predictions.jsonl"
    (picture,), mask = pictures(1), np.eye(4, dtype=bool)
    predictions = Predictions(file, RUN)
    contents = {"text": "A dog, ein Hündchen\r\n\u2028.", "mask": mask, "a/picture": picture}
    for key, content in contents.items():
        predictions.add(Example(key, ""), "Say it.", Answer(content, 7))
    for answers in (predictions.answers(list(contents)), Predictions(file, RUN).answers(list(contents))):
        assert answers[0] == contents["text"]
        assert (answers[1] == mask).all()
        assert answers[2].tobytes() == picture.tobytes()
        assert len(answers[1:]) == 2 and (answers[1:][0] == mask).all()
    assert Predictions(file, RUN).num_visual_tokens("text") == 7
    assert [path.name for path in (tmp_path / "results.predictions").iterdir()] == ["a%2Fpicture.png"]


@pytest.mark.parametrize("half", ['{"benchm', '{"key": "b", "answer": "no'])
def test_a_half_written_line_is_taken_off(half, tmp_path):
    file = tmp_path / "predictions.jsonl"
    if half.startswith('{"key'):
        Predictions(file, RUN).add(KEY, "Say it.", Answer("yes"))
    with file.open("a") as opened:
        opened.write(half)
    predictions = Predictions(file, RUN)
    assert len(predictions) == half.startswith('{"key')
    predictions.add(Example("b", ""), "Say it.", Answer("no"))
    assert [json.loads(line).get("answer") for line in file.read_text().splitlines()][-1] == "no"
    assert len(Predictions(file, RUN)) == len(predictions)


def test_another_run_is_refused(tmp_path):
    file = tmp_path / "predictions.jsonl"
    Predictions(file, RUN).add(KEY, "Say it.", Answer("yes"))
    with pytest.raises(ValueError, match="another run, with model 'mine' instead of 'yours'"):
        Predictions(file, RUN | {"model": "yours"})
    with pytest.raises(ValueError, match="with seed None instead of 1"):
        Predictions(file, RUN | {"seed": 1})
    predictions = Predictions(file, RUN)
    assert predictions.has(KEY, "Say it.") and not predictions.has(Example("other", ""), "Say it.")
    with pytest.raises(ValueError, match="holds an answer of a/b: 1 to 'Say it.', and the files ask 'Show it.'"):
        predictions.has(KEY, "Show it.")
    with pytest.raises(ValueError, match="holds an answer of a/b: 1 among other choices than the files have"):
        predictions.has(replace(KEY, choices=("yes", "no")), "Say it.")


@pytest.mark.parametrize("content", ["not JSON\n", '["a list"]\n{"key": 1}\n', "{}\n{}\n"])
def test_another_file_is_refused(content, tmp_path):
    (tmp_path / "predictions.jsonl").write_text(content)
    with pytest.raises(ValueError, match="choose another --output, or delete the file"):
        Predictions(tmp_path / "predictions.jsonl", RUN)
