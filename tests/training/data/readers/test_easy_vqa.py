"""easy-VQA in the one schema, from a folder of its form and from an installed package."""

import importlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

from training.data import easy_vqa_folder, load_easy_vqa
from training.data.sources import load_mixture

QUESTIONS = {
    "train": [
        ["what is the blue shape?", "rectangle", 0],
        ["what color is the shape?", "blue", 0],
        ["is there not a red shape?", "yes", 1],
    ],
    "test": [["does the image contain a circle?", "no", 0]],
}


def write_easy_vqa(folder, questions=QUESTIONS):
    """Its files, with a picture of one colour for each number."""
    for split, entries in questions.items():
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "questions.json").write_text(json.dumps(entries))
        for number in {entry[2] for entry in entries}:
            Image.new("RGB", (64, 64), (10 * number, 0, 200)).save(folder / split / "images" / f"{number}.png")
    return folder


def test_each_question_is_a_row_with_its_picture_and_kind(tmp_path):
    rows = list(load_easy_vqa("train", write_easy_vqa(tmp_path)))
    assert [row["question_type"] for row in rows] == ["shape", "colour", "yes_no"]
    for (question, answer, number), row in zip(QUESTIONS["train"], rows, strict=True):
        assert row["task"] == "question" and row["masks"] == [] and row["concepts"] == []
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        assert [part["type"] for part in row["messages"][0]["content"]] == ["image", "text"]
        assert [turn["content"][-1]["text"] for turn in row["messages"]] == [question, answer]
        assert np.array_equal(np.asarray(row["images"][0])[0, 0], (10 * number, 0, 200))


def test_a_mixture_reads_the_training_part_of_the_installed_package(tmp_path, monkeypatch):
    write_easy_vqa(tmp_path / "easy_vqa" / "data")
    (tmp_path / "easy_vqa" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "easy_vqa", raising=False)
    importlib.invalidate_caches()
    assert easy_vqa_folder() == tmp_path / "easy_vqa" / "data"
    rows = load_mixture([{"dataset": "easy_vqa"}], 6)
    assert [row["messages"][1]["content"][0]["text"] for row in rows] == ["rectangle", "blue", "yes"] * 2


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install easy-vqa"):
        load_easy_vqa("train")


@pytest.mark.parametrize(
    "entry, problem",
    [
        (["is it red?", "yes"], "number of the picture"),
        (["is it red?", "yes", True], "number of the picture"),
        (["is it red?", "yes", 7], "does not exist"),
        (["", "yes", 0], "the question must be text"),
        (["is it red?", None, 0], "the answer must be text"),
    ],
)
def test_bad_entries_are_named_or_skipped(tmp_path, entry, problem):
    folder = write_easy_vqa(tmp_path)
    file = folder / "test" / "questions.json"
    file.write_text(json.dumps([*QUESTIONS["test"], entry]))
    with pytest.raises(ValueError, match=f"(?s)questions.json, entry 1: .*{problem}"):
        load_easy_vqa("test", folder)
    with pytest.warns(UserWarning, match="skipped 1 bad rows"):
        assert len(load_easy_vqa("test", folder, on_error="skip")) == 1


def test_another_split_or_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="choose train or test"):
        load_easy_vqa("validation", write_easy_vqa(tmp_path))
    with pytest.raises(ValueError, match="give the folder that holds train/ and test/"):
        load_easy_vqa("train", tmp_path / "train")
