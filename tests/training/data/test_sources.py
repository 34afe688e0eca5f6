"""A recipe's mixture reaches every kind of data, and says what is wrong with a part."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import EmojiScenes, SceneConfig
from training.data.sources import MixtureArguments, load_eval_sets, load_mixture, load_part

SCENES = {"dataset": "emoji_scenes", "image_size": 24}


def write_coco(root: Path) -> dict[str, str]:
    """One picture with a dog, its caption, and two ways to refer to the dog: one for training, one for tests."""
    (root / "images").mkdir()
    Image.new("RGB", (20, 10), (200, 0, 0)).save(root / "images" / "a.png")
    pictures = [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}]
    square = [[2, 3, 8, 3, 8, 7, 2, 7]]
    contents = {
        "instances": {
            "images": pictures,
            "categories": [{"id": 5, "name": "dog"}],
            "annotations": [{"id": 7, "image_id": 1, "category_id": 5, "segmentation": square}],
        },
        "captions": {"images": pictures, "annotations": [{"id": 8, "image_id": 1, "caption": "A small dog."}]},
        "refs": [
            {"ann_id": 7, "split": "train", "sentences": [{"sent": "the dog on the left"}]},
            {"ann_id": 7, "split": "test", "sentences": [{"sent": "the only dog"}]},
        ],
    }
    for name, content in contents.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    return {name: str(root / f"{name}.json") for name in contents} | {"images": str(root / "images")}


def request_and_answer(row: dict) -> tuple[str, str | None]:
    return tuple(turn["content"][-1]["text"] for turn in row["messages"])


def test_a_mixture_by_weight_of_scenes():
    parts = [SCENES | {"task": "caption", "weight": 3}, SCENES | {"task": "text_only"}]
    rows = load_mixture(parts, 20, seed=1)
    assert len(rows) == 20
    assert Counter(row["task"] for row in rows) == {"caption": 15, "text_only": 5}
    captions = EmojiScenes("train", 15, SceneConfig(image_size=24), tasks=("caption",))
    assert [row["messages"] for row in rows if row["task"] == "caption"] == [row["messages"] for row in captions]
    assert rows[0]["images"][0].size == (24, 24)


def test_evaluation_rows_are_of_the_validation_split_and_named():
    parts = [SCENES | {"task": "caption"}, SCENES | {"task": "question", "name": "quiz"}, {"dataset": "some/hub-id"}]
    sets = load_eval_sets(MixtureArguments(mixture=parts, eval_examples=3))
    assert {name: len(rows) for name, rows in sets.items()} == {"caption": 3, "quiz": 3}
    validation = EmojiScenes("validation", 3, SceneConfig(image_size=24), tasks=("caption",))
    assert [row["messages"] for row in sets["caption"]] == [row["messages"] for row in validation]
    assert load_eval_sets(MixtureArguments(mixture=parts, eval_examples=0)) == {}


def test_coco(tmp_path):
    files = write_coco(tmp_path)
    images = {"images": files["images"]}
    masks = {"dataset": "coco", "annotations": files["instances"], **images}
    captions = {"dataset": "coco_captions", "annotations": files["captions"], **images}
    phrases = {"dataset": "refcoco", "refs": files["refs"], "annotations": files["instances"], **images}
    found = {row["task"]: request_and_answer(row) for row in load_mixture([masks, captions], 2)}
    assert found == {
        "referring": ("Segment the dog.", None),
        "caption": ("Describe the picture.", "A small dog."),
    }
    assert [request_and_answer(row)[0] for row in load_part(phrases, "train")] == ["Segment the dog on the left."]
    assert [request_and_answer(row)[0] for row in load_part(phrases | {"split": "test"}, "train")] == [
        "Segment the only dog."
    ]


def test_a_folder_and_a_data_set_of_the_hub(tmp_path):
    conversation = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello!"}]
    rows = [{"conversations": conversation}] * 2
    (tmp_path / "data.json").write_text(json.dumps(rows))
    (tmp_path / "more.json").write_text(json.dumps(rows + [{"conversations": []}]))
    folder = {"dataset": str(tmp_path)}
    # A file format in place of an id: all that `datasets.load_dataset` takes
    hub = {"dataset": "json", "data_files": str(tmp_path / "more.json"), "on_error": "skip"}
    with pytest.warns(UserWarning, match="skipped 1 bad row"):
        mixture = load_mixture([folder, hub], 4)
    assert [request_and_answer(row) for row in mixture] == [("Hello?", "Hello!")] * 4


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "needs a mixture"),
        (["emoji_scenes"], "needs the key dataset, got 'emoji_scenes'"),
        ([{"task": "caption"}], "needs the key dataset"),
        ([SCENES | {"task": "caption"}] * 2, "Two parts of the mixture are called 'caption'"),
        ([SCENES], "needs its task, such as task: caption, or tasks"),
        ([SCENES | {"task": "caption", "colour": "red"}], "unexpected keyword argument 'colour'"),
        ([SCENES | {"task": "captions"}], "unknown task|tasks must be"),
        ([{"dataset": "coco", "annotations": "a.json"}], "missing a required argument: 'images'"),
        ([{"dataset": ".", "split": "train"}], "unexpected keyword argument 'split'"),
        ([SCENES | {"task": "caption", "weight": -1}], "weights must be numbers of at least 0"),
    ],
)
def test_what_is_wrong_with_a_part_is_said(parts, message):
    with pytest.raises(ValueError, match=message):
        load_mixture(parts, 4)


def test_rows_without_an_answer_are_bad_rows_of_a_mixture(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    rows = [{"image": "a.png"}, {"image": "a.png", "caption": "A dog."}]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"data\.json, row 0: no conversation or caption to learn from"):
        load_mixture([{"dataset": str(tmp_path)}], 2)
    with pytest.warns(UserWarning, match="skipped 1 bad row"):
        assert [row["task"] for row in load_mixture([{"dataset": str(tmp_path), "on_error": "skip"}], 2)] == [
            "caption",
            "caption",
        ]
    with pytest.raises(ValueError, match="concepts of EmojiScenes has no conversation to learn from"):
        load_mixture([SCENES | {"task": "concepts"}], 2)


def test_several_tasks_about_each_scene():
    part = {
        "name": "reading", "dataset": "emoji_scenes", "tasks": ["caption", "presence"], "rows_per_scene": 4,
        "redrawn": 1.0, "image_size": 32,
    }  # fmt: skip
    rows = load_mixture([part], 8)
    assert [row["task"] for row in rows] == ["caption", "presence"] * 4
    first = [np.asarray(row["images"][0]) for row in rows]
    assert all(np.array_equal(first[0], image) for image in first[:4]) and not np.array_equal(first[0], first[4])
    assert all(placed.redrawing is not None for placed in rows.parts[0].scene(0).layout.objects)

    sets = load_eval_sets(MixtureArguments(mixture=[part], eval_examples=5))
    assert list(sets) == ["reading_caption", "reading_presence"]
    assert all({row["task"] for row in some} == {name.split("_")[1]} for name, some in sets.items())
    assert len({np.asarray(row["images"][0]).tobytes() for row in sets["reading_caption"]}) == 5
    assert load_part(part, "validation").config.redrawn == 0


def test_a_part_has_one_task_or_several():
    with pytest.raises(ValueError, match="needs its task, such as task: caption, or tasks"):
        load_mixture([SCENES | {"task": "caption", "tasks": ["edit"]}], 4)
