"""The names that a mixture teaches SeTok, and rows with others."""

import json
from itertools import islice
from pathlib import Path

import datasets
import pytest
from PIL import Image

from tests.training.data.test_sources import write_coco
from training.data import concept_names
from training.data.concept_bank import held_out_rows, names_of_mixture, read_concept_names, with_known_names
from training.data.skipped_rows import SkippedRows
from training.data.sources import load_mixture, load_stream

SCENES = {"dataset": "emoji_scenes", "task": "concepts", "image_size": 24}


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_folder(root: Path, *labels: list[str]) -> dict:
    (root / "images").mkdir(parents=True)
    for number in range(len(labels)):
        Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(root / "images" / f"{number}.png")
    rows = [{"image": f"{number}.png", "labels": names} for number, names in enumerate(labels)]
    (root / "data.json").write_text(json.dumps(rows))
    return {"dataset": str(root), "name": root.name}


def test_names_are_read_from_text_and_from_class_descriptions(tmp_path):
    (tmp_path / "names.txt").write_text("dog\n\n  traffic light \ncafé\n")
    assert read_concept_names(tmp_path / "names.txt") == ["dog", "traffic light", "café"]
    (tmp_path / "classes.csv").write_text('LabelName,DisplayName\n/m/1,Tortoise\n/m/2,"Fungus, edible"\n')
    assert read_concept_names(tmp_path / "classes.csv") == ["Tortoise", "Fungus, edible"]
    (tmp_path / "empty.txt").write_text("\n")
    for file, message in (("empty.txt", "empty.txt has no names"), ("lost.txt", "lost.txt cannot be read")):
        with pytest.raises(ValueError, match=message):
            read_concept_names(tmp_path / file)


def test_names_come_from_rows_files_and_scenes(tmp_path):
    pets, plain = write_folder(tmp_path / "pets", ["dog", "cat"], []), write_folder(tmp_path / "plain", [])
    (tmp_path / "names.txt").write_text("owl\ncat\n")
    files = [str(tmp_path / "names.txt")]
    mixed = load_mixture([pets, plain, SCENES], 6, needs="picture")
    drawn = list(concept_names("tiny"))
    assert sorted(names_of_mixture(mixed, [pets, plain, SCENES], [])) == sorted({*drawn, "cat", "dog"})
    assert names_of_mixture(load_mixture([plain], 2, needs="picture"), [plain], []) is None
    stream = load_stream([pets], 0, 4, needs="picture")
    assert names_of_mixture(stream, [pets], []) is None
    assert names_of_mixture(stream, [pets], files) == ["owl", "cat"]
    assert names_of_mixture(load_mixture([pets], 2, needs="picture"), [pets], files) == ["owl", "cat"]
    with pytest.raises(ValueError, match="EmojiScenes of task: concepts, not caption"):
        load_mixture([SCENES | {"task": "caption"}], 2, needs="picture")


def test_rows_with_other_names_are_refused_or_left_out(tmp_path):
    part = write_folder(tmp_path / "pets", ["dog"], ["cat", "owl"], [])
    skipping = part | {"on_error": "skip"}
    for names, number in ((["dog", "cat"], 2), (None, 0)):
        message = rf"the name '\w+' is not among the {number} of the concept bank: add it to a file of concept_names"
        with pytest.raises(ValueError, match=rf"row [01] of those read: {message}"):
            with_known_names(load_mixture([part], 3, needs="picture"), [part], names)
        with pytest.raises(ValueError, match=rf"data.json, row [01]: {message}"):
            list(islice(with_known_names(load_stream([part], 0, 4, needs="picture"), [part], names), 3))
    with pytest.warns(UserWarning, match="row 1 of those read: the name 'owl'"):
        kept = with_known_names(load_mixture([skipping], 4, needs="picture"), [skipping], ["dog", "cat"])
    assert [row["concepts"] for row in kept] == [["dog"], [], ["dog"], []]
    skipped = SkippedRows(tmp_path / "skipped.jsonl")
    stream = with_known_names(load_stream([skipping], 0, 4, skipped, "picture"), [skipping], ["dog", "cat"])
    assert sorted(row["concepts"] for row in islice(stream, 4)) == [[], [], ["dog"], ["dog"]]
    ((name, reason),) = skipped.counts()
    assert name == "pets" and "the name … is not among the … of the concept bank" in reason


def test_held_out_rows_are_those_of_their_parts_and_the_same_again(tmp_path):
    parts = [write_folder(tmp_path / "pets", ["dog"], ["owl"], ["cat"]) | {"on_error": "skip"}, SCENES]
    names = ["dog", "cat", *concept_names("tiny")]
    skipped = SkippedRows(tmp_path / "skipped.jsonl")
    rows = held_out_rows(parts, 4, names, skipped)
    assert [row["concepts"] for row in rows] == [row["concepts"] for row in held_out_rows(parts, 4, names)]
    assert len(rows) == 4 and all(row["images"][0].size in ((8, 8), (24, 24)) for row in rows)
    assert all(part.endswith("(held out)") for part, _ in skipped.counts())
    with pytest.raises(ValueError, match=r"pets \(held out\) has too few rows for eval_examples: 9"):
        held_out_rows(parts[:1], 9, names)


def test_pictures_of_coco_have_the_names_of_their_categories(tmp_path):
    files = write_coco(tmp_path)
    part = {"dataset": "coco", "annotations": files["instances"], "images": files["images"]}
    mixture, stream = load_mixture([part], 2, needs="picture"), load_stream([part], 0, 4, needs="picture")
    assert names_of_mixture(mixture, [part], []) == ["dog"]
    for row in [mixture[0], next(with_known_names(stream, [part], ["dog"]).consumer(0, 1))]:
        assert row["images"][0].size == (20, 10) and row["concepts"] == ["dog"]
