"""Scenes and their rows: exact masks, whole objects, splits that do not mix, the same bytes from the same seed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.data import FEATURES, PhotoSceneConfig, PhotoScenes, make_photo_scene, photo_concept_names
from training.data.composition import MIN_VISIBLE, compose, mask_boxes, place
from training.data.photo_scenes.folder import ground_files

from .conftest import STAMPS


@pytest.fixture(scope="module")
def config(folder) -> PhotoSceneConfig:
    return PhotoSceneConfig(image_size=126, max_objects=3, folder=folder)


def inner(mask: np.ndarray, margin: int) -> np.ndarray:
    """The pixels of a mask that lie more than `margin` pixels within it."""
    padded = np.pad(mask, margin)
    height, width = mask.shape
    span = range(2 * margin + 1)
    return np.all([padded[y : y + height, x : x + width] for y in span for x in span], axis=0)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_objects_are_whole_and_of_their_split(split, config):
    names, sizes, counts, backgrounds = photo_concept_names(split, config.folder), [], [], set()
    for index in range(60):
        scene = make_photo_scene(split, index, config)
        assert scene.image.shape == (126, 126, 3) and scene.image.dtype == np.uint8
        assert scene.masks.shape == (len(scene.names), 126, 126) and scene.masks.sum(0).max() == 1
        assert set(scene.names) <= set(names) and len(set(scene.names)) == len(scene.names)
        assert scene.visible.min() >= MIN_VISIBLE and scene.visible[-1] == 1
        assert not scene.has_held_out_pair
        for mask, (x1, y1, x2, y2) in zip(scene.masks, scene.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)
        x1, y1, x2, y2 = scene.boxes[-1]  # never covered
        sizes.append(max(x2 - x1, y2 - y1) / 126)
        counts.append(len(scene.names))
        backgrounds.add(scene.background)
    assert 0.19 <= min(sizes) < 0.3 and 0.35 < max(sizes) <= 0.46
    assert set(counts) == {1, 2, 3}
    photographs = {name for kind, name in backgrounds if kind == "photo"}
    assert photographs == set(ground_files(split, config.folder))
    assert {kind for kind, _ in backgrounds} == {"flat", "photo"}


def test_pixels_under_a_mask_show_the_object(config):
    reds = {name: [red for _, of, red in STAMPS.values() if of == name] for name in ("frog", "horse", "zebra")}
    for index in range(20):
        scene = make_photo_scene("train", index, replace(config, grounds=("flat",), min_objects=2))
        red = scene.image[..., 0].astype(int)
        for name, mask in zip(scene.names, scene.masks, strict=True):
            shown = red[inner(mask, 2)]
            assert len(shown) > 50
            assert min(abs(shown - value).max() for value in reds[name]) <= 1
        ground = scene.image[inner(~scene.masks.any(0), 3)]
        assert len(np.unique(ground[len(ground) // 2 :], axis=0)) == 1


def test_the_same_seed_gives_the_same_bytes(config):
    first, again = (make_photo_scene("test", 5, config, seed=3) for _ in range(2))
    assert first.image.tobytes() == again.image.tobytes() and first.masks.tobytes() == again.masks.tobytes()
    assert first.names == again.names and first.background == again.background
    images = {make_photo_scene("test", i, config, seed).image.tobytes() for i in range(5) for seed in (0, 1)}
    assert len(images) == 10


def test_composition_by_hand():
    """Two objects of 2 x 2 and 1 x 2 pixels on a 4 x 4 image; the second covers a pixel of the first."""
    opaque = np.full((2, 2, 4), 255, np.uint8)
    half = np.full((1, 2, 4), 128, np.uint8)  # premultiplied white, alpha 128
    sprites = [(opaque, np.ones((2, 2), bool)), (half, np.ones((1, 2), bool))]
    image = np.zeros((4, 4, 3), np.uint8)
    masks, visible = compose(image, sprites, [(0, 0), (1, 1)])
    assert image[..., 0].tolist() == [[255, 255, 0, 0], [255, 255, 128, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert masks.astype(int).tolist() == [
        [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]
    assert visible.tolist() == [0.75, 1] and mask_boxes(masks).tolist() == [[0, 0, 2, 2], [1, 1, 3, 2]]


def test_no_place_is_found_where_there_is_none():
    whole = np.ones((8, 8), bool)
    assert place(np.random.default_rng(0), [whole], 8) == [(0, 0)]
    assert place(np.random.default_rng(0), [whole, whole], 8) is None


def test_rows_are_of_the_schema(config):
    scenes = PhotoScenes("train", 4, config)
    rows = list(scenes)
    assert len(rows) == len(scenes) == 4
    for index, row in enumerate(rows):
        scene = scenes.scene(index)
        assert row["task"] == "concepts" and row["concepts"] == scene.names and row["messages"] == []
        assert np.array_equal(np.array(row["images"][0]), scene.image)
        assert np.array_equal(np.stack([np.array(mask) for mask in row["masks"]]), scene.masks * np.uint8(255))
    table, stream = scenes.to_dataset(), list(scenes.to_iterable_dataset(num_shards=2))
    assert table.features == FEATURES
    for row, kept, streamed in zip(rows, table, stream, strict=True):
        assert row["concepts"] == kept["concepts"] == streamed["concepts"]
        assert row["images"][0].tobytes() == kept["images"][0].tobytes() == streamed["images"][0].tobytes()
    assert scenes[-1]["concepts"] == rows[3]["concepts"]
    with pytest.raises(IndexError):
        scenes[4]
    with pytest.raises(ValueError, match="num_shards"):
        scenes.to_iterable_dataset(0)


def test_without_the_folder_it_names_the_command(tmp_path):
    nowhere = PhotoSceneConfig(folder=str(tmp_path / "nowhere"))
    for call in (lambda: PhotoScenes("train", 1, nowhere), lambda: make_photo_scene("train", 0, nowhere)):
        with pytest.raises(
            FileNotFoundError, match=r"python -m training\.data\.photo_scenes\.fetch --output .*nowhere"
        ):
            call()


def test_a_damaged_folder_is_named(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for path in broken.rglob("*/*.png"):
        path.write_bytes(path.read_bytes()[:40])
    config = PhotoSceneConfig(max_objects=1, folder=str(broken))
    with pytest.raises(ValueError, match=r"lacks .*\.png, or it is damaged .* run .*fetch --output .*broken again"):
        make_photo_scene("train", 0, config)
    other = tmp_path / "other"
    other.mkdir()
    for text in ("{", "[]", '{"cutouts": [{"name": "x", "file": "y"}], "grounds": []}'):
        Path(other / "index.json").write_text(text)
        with pytest.raises(ValueError, match=r"index\.json is damaged .* run .*fetch --output .*other again"):
            photo_concept_names(folder=str(other))


def test_bad_values_are_refused(config):
    for values in (
        {"image_size": 63}, {"min_objects": 0}, {"min_objects": 3, "max_objects": 2}, {"max_objects": 13},
        {"object_size": (0.4, 0.3)}, {"object_size": (0.0, 0.3)}, {"object_size": (0.2, 0.8)}, {"grounds": ()},
        {"grounds": ("photo", "noise")},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(values))):
            replace(config, **values)
    for values in ({"split": "all"}, {"num_scenes": 0}, {"seed": -1}, {"tasks": ("caption",)}, {"tasks": "concepts"}):
        with pytest.raises(ValueError):
            PhotoScenes(**{"split": "train", "num_scenes": 1, "config": config} | values)
    with pytest.raises(ValueError, match="has 3 objects .* lower max_objects"):
        make_photo_scene("train", 0, replace(config, max_objects=4))
    with pytest.raises(ValueError, match="unknown split 'all'"):
        photo_concept_names("all", config.folder)
