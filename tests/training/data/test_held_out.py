"""What a part of a mixture holds out is kept from training, and is what a model is measured on."""

import json
import warnings
from itertools import islice

import datasets
import pytest
from PIL import Image

from tests.training.data.test_sources import write_coco
from training.data import FEATURES, load_coco
from training.data.held_out import picture_keys, split_off
from training.data.measured_rows import load_held_out, read_part
from training.data.row_lengths import RowLengths
from training.data.sources import MixtureArguments, load_eval_sets, load_mixture, load_rows


@pytest.fixture
def folder(tmp_path):
    """Five captions of three pictures, a.png, b.png, a.png, c.png, b.png, and one row without a picture."""
    (tmp_path / "images").mkdir()
    for number, name in enumerate("abc"):
        Image.new("RGB", (8, 8), (100 * number, 0, 0)).save(tmp_path / "images" / f"{name}.png")
    rows = [{"image": f"{name}.png", "caption": f"{name} {number}"} for number, name in enumerate("abacb")]
    turns = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello!"}]
    (tmp_path / "data.json").write_text(json.dumps([*rows, {"conversations": turns}]))
    return tmp_path


def answers(rows) -> list[str]:
    return [row["messages"][-1]["content"][0]["text"] for row in rows]


def test_rows_about_a_held_out_picture_go_with_it(folder):
    part = {"dataset": str(folder), "held_out": 1}
    held_out = load_held_out(part, "test")
    assert answers(held_out.rows) == ["a 0", "a 2"]
    assert answers(load_mixture([part], 4)) == ["b 1", "c 3", "b 4", "Hello!"]
    assert held_out.name == folder.name
    assert held_out.told == f"2 rows of {folder.name}, which held_out: 1 keeps from training"
    assert answers(load_held_out(part | {"held_out": 2}, "test").rows) == ["a 0", "b 1", "a 2", "b 4"]


def test_pictures_are_known_by_their_bytes_where_they_have_no_file():
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ((1, 2, 3), (3, 2, 1)))
    raw = {"messages": [], "masks": [], "concepts": [], "task": "reconstruction", "question_type": None}
    rows = [raw | {"images": images} for images in ([first], [second], [first, second], [])]
    keys = picture_keys(datasets.Dataset.from_list(rows, features=FEATURES))
    assert keys[0] != keys[1] and keys[2] == keys[0] + keys[1] and keys[3] == ()


def test_masks_of_a_picture_stay_together(tmp_path):
    files = write_coco(tmp_path)
    Image.new("RGB", (20, 10), (0, 0, 200)).save(tmp_path / "images" / "b.png")
    coco = json.loads((tmp_path / "instances.json").read_text())
    coco["images"].append({"id": 2, "file_name": "b.png", "width": 20, "height": 10})
    coco["categories"].append({"id": 6, "name": "cat"})
    dog = coco["annotations"][0]
    coco["annotations"] += [dog | {"id": 8, "category_id": 6}, dog | {"id": 9, "image_id": 2}]
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    kept, held_out = split_off(load_coco(files["instances"], files["images"]), 1)
    assert [row["concepts"] for row in held_out] == [["dog"], ["cat"]]
    assert [row["images"][0].getpixel((0, 0)) for row in kept] == [(0, 0, 200)]


@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize("streaming", [False, True])
def test_bad_rows_count_among_the_first(folder, streaming):
    """Those that only their pictures show, too: others about these pictures go with them."""
    (folder / "images" / "broken.png").write_text("no picture")
    rows = json.loads((folder / "data.json").read_text())
    rows[0]["image"] = "missing.png"
    turns = [{"from": "human", "value": "<image><image>The same?"}, {"from": "gpt", "value": "No."}]
    rows[1] = {"image": ["b.png", "broken.png"], "conversations": turns}
    (folder / "data.json").write_text(json.dumps(rows))
    part = {"dataset": str(folder), "held_out": 3, "on_error": "skip", "name": "mine"}
    args = MixtureArguments(mixture=[part], train_examples=8, streaming=streaming)
    assert set(answers(islice(load_rows(args, 0, None), 8))) == {"c 3", "Hello!"}
    assert answers(load_eval_sets(args)["mine"]) == answers(load_held_out(part, "test").rows) == ["a 2", "b 4"]


@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize("streaming", [False, True])
def test_bad_masks_count_among_the_first(tmp_path, streaming):
    files = write_coco(tmp_path)
    Image.new("RGB", (20, 10), (0, 0, 200)).save(tmp_path / "images" / "b.png")
    coco = json.loads((tmp_path / "instances.json").read_text())
    coco["images"].append({"id": 2, "file_name": "b.png", "width": 20, "height": 10})
    coco["annotations"] += [coco["annotations"][0] | {"id": 9, "image_id": 2}, {"id": 10}]
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    part = {"dataset": "coco", "annotations": files["instances"], "images": files["images"], "on_error": "skip"}
    args = MixtureArguments(mixture=[part | {"held_out": 2}], train_examples=4, streaming=streaming)

    def colours(rows) -> list[tuple]:
        return [row["images"][0].getpixel((0, 0)) for row in rows]

    assert set(colours(islice(load_rows(args, 0, None), 4))) == {(0, 0, 200)}
    assert colours(load_eval_sets(args)["coco"]) == [(200, 0, 0)]
    assert colours(load_held_out(args.mixture[0], "test").rows) == [(200, 0, 0)]
    with pytest.raises(ValueError, match="no row is left, all are bad"):
        load_held_out(part | {"held_out": 1}, "test")


def test_what_is_measured_is_said(folder, tmp_path):
    name = folder.name
    told = load_held_out({"dataset": str(folder)}, "test").told
    assert told == f"6 rows of {name}, and whether training saw them is not known: no split and no held_out names them"
    files = write_coco(tmp_path / "coco") if (tmp_path / "coco").mkdir() is None else {}
    phrases = {
        "dataset": "refcoco",
        "refs": files["refs"],
        "annotations": files["instances"],
        "images": files["images"],
    }
    assert load_held_out(phrases, "test").told == "1 rows of refcoco, split test"
    told = load_held_out(phrases | {"split": "train"}, "test").told
    assert told == "1 rows of refcoco, split train, which is what training reads"


@pytest.mark.parametrize("streaming", [False, True])
def test_training_is_evaluated_on_rows_held_out(folder, processor, streaming):
    part = {"dataset": str(folder), "held_out": 2, "name": "mine"}
    args = MixtureArguments(mixture=[part, {"dataset": "some/hub-id"}], eval_examples=3, streaming=streaming)
    (found,) = load_eval_sets(args).values()
    assert answers(found) == ["a 0", "b 1", "a 2"] and found[1]["images"][0].getpixel((0, 0)) == (100, 0, 0)

    rows = json.loads((folder / "data.json").read_text())
    rows[0]["caption"] = "red " * 50
    rows[1]["image"] = "missing.png"
    (folder / "data.json").write_text(json.dumps(rows))
    args.mixture = [part | {"on_error": "skip"}]
    skip, refuse = (RowLengths(processor, max_length=40, long_rows=long_rows) for long_rows in ("skip", "refuse"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert answers(load_eval_sets(args, skip)["mine"]) == ["a 2"]
        with pytest.raises(ValueError, match="tokens and max_length is 40"):
            load_eval_sets(args, refuse)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"held_out": 0}, "held_out must be a number of rows, 1 or more, got 0"),
        ({"held_out": "a few"}, "held_out must be a number of rows, 1 or more, got 'a few'"),
        ({"held_out": 6}, "held_out: 6 leaves none of the 6 rows to train on"),
    ],
)
def test_what_cannot_be_held_out_is_refused(folder, part, message):
    with pytest.raises(ValueError, match=message):
        load_mixture([{"dataset": str(folder)} | part], 2)


def test_scenes_that_are_drawn_have_splits_instead():
    scenes = {"dataset": "emoji_scenes", "task": "caption"}
    with pytest.raises(ValueError, match="scenes that are drawn have splits"):
        load_mixture([scenes | {"held_out": 3}], 2)
    with pytest.raises(ValueError, match="EmojiScenes are no data of one's own"):
        load_held_out(scenes, "test")


def test_a_part_on_the_command_line():
    assert read_part("data/MyTalks") == {"dataset": "data/MyTalks"}
    assert read_part("{dataset: data/MyTalks, held_out: 3}") == {"dataset": "data/MyTalks", "held_out": 3}
    with pytest.raises(ValueError, match="is not YAML"):
        read_part("{dataset: [")
    with pytest.raises(ValueError, match="needs the key dataset"):
        load_held_out(read_part("{folder: data}"), "test")
