"""Scenes: the same bytes from the same seed, exact masks, splits that do not mix."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from training.data import TASKS, SceneConfig, concept_names, is_held_out_pair, make_scene, render
from training.data.composition import MIN_VISIBLE
from training.data.emoji_scenes.scenes import (
    BACKGROUND_KINDS,
    PALETTE,
    STREAMS,
    Background,
    Layout,
    scene_rng,
)
from training.data.emoji_scenes.sprites import STYLES, sprite

CONFIGS = [
    SceneConfig(),
    SceneConfig(image_size=96, vocabulary="full", min_objects=3, max_objects=12),
    SceneConfig(image_size=32, max_objects=2, object_size=(0.5, 0.7), backgrounds=("noise",)),
]
STYLED = [
    SceneConfig(vocabulary="large", styles=("twemoji",)),
    SceneConfig(image_size=96, vocabulary="large", styles=("openmoji",), min_objects=3, max_objects=12),
    SceneConfig(vocabulary="full", styles=STYLES),
]


def digest(scene) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.masks.tobytes() + repr(scene.layout).encode()).hexdigest()


# Of the scenes that `test_reproducible` draws: layouts, colours of the cells of a 4 x 4 grid, pixels of each object
LAYOUTS = "961f32d66ff0cf6eef7859035eec73a342afb94fb61b11b84c40b093a5159958"
LOOKS = [
    "709bd66a95d06893ce6691cc6d98d36e99ce6a95cb6a95d0628dc8987692d6623c6893ce6893ce728bc3907d9d5f8ac5",
    "719bd5999c9ebb99786791cb6d98d3d0b451a0a3956a95d08e9e9d6d94c06c97d26893ceb8a86d6e94ba6b96d15f8ac5",
    "f1b1c2eeaebfeeaebff0b0c1f5b5c6e6a199f1909deba7b7f6b6c7e6a390eb7473d3a876f0b0c1efb4c0ddb99ee8b6af",
    "828d968a91998a80818c939b7a967f82888b8d675586898f79948a808f948a949d8c969f8590999291999fa1a98a8f98",
    "828e978f9e7d919c828a959d83969f8e9687948271947076968d8c848e96968588d56b50ba6946918e9194879188939c",
    "7a888fa9dff8837e7f805f5180655991a1ad7775658063567b5a4c6c767aa3d2aa698e908766586a6378589cab5d6483",
    "e9d68ff1d98ce2e3ccebede6e8e3d0beae45dcdac5e7e5dfe0ab99daa891d2cbc4e4e3dee2bbacd9bfafe9ebe3e7e9e2",
    "eaebe4e3cabef3dda4ebede6cfc2bdce9872a9983be2bcb3ddc39cc5bd99c8c6a9ddeaeadad3c6cdc0b1bbbe84e3e9e5",
    "7c5e4a7063436f65427f614d766051927e3699843a81634fae9976886c3f956f3d7a5c48927c6e846f617e604c775945",
    "957abb8f74b59075b69378b9a183a496799e9378b99378b9a384999f80889277b89176b79a7fc08f74b59277b8967bbc",
    "987ab79074b4a57fa49378b9c08f82ca906fc18e728b76b5987cb8ad85988377c0796fbd9a7fc08f74b59277b8967bbc",
    "855f509772568564537f5f4eac7e41f7b630c2c46b8bb6a5ad7a33bc8534718b88547fa7805a4c886253866051845e4f",
]
AREAS = [
    [424], [609, 724, 749], [259], [148, 448, 435], [339, 366, 241, 311, 613, 620, 576], [229, 153],
    [212, 192, 216, 361, 157, 206], [364, 302, 261, 478, 227, 332, 355, 168, 297, 299, 325], [114, 134], [211],
    [600, 800, 624], [174, 184],
]  # fmt: skip


def test_reproducible():
    """What the shipped model saw: if this changes, so does every published figure.

    Layouts are drawn in integers and the same everywhere. Sprites are resized by Pillow, whose builds may round a pixel
    otherwise.
    """
    scenes = [make_scene(split, index, config) for split in ("train", "test") for index in (0, 7) for config in CONFIGS]
    layouts = [(scene.layout.image_size, scene.layout.background, scene.layout.objects) for scene in scenes]
    # As they were written before objects could be redrawn
    assert hashlib.sha256(repr(layouts).replace(", redrawing=None", "").encode()).hexdigest() == LAYOUTS
    assert {scene.layout.style for scene in scenes} == {"noto"}
    for scene, look, areas in zip(scenes, LOOKS, AREAS, strict=True):
        cells = scene.image.reshape(4, len(scene.image) // 4, 4, -1, 3).mean((1, 3))
        assert np.abs(cells - np.frombuffer(bytes.fromhex(look), np.uint8).reshape(4, 4, 3)).max() < 2
        np.testing.assert_allclose(scene.masks.sum((1, 2)), areas, atol=4)


def test_random_access():
    forward = [digest(make_scene("validation", index)) for index in range(8)]
    backward = [digest(make_scene("validation", index)) for index in reversed(range(8))]
    assert forward == backward[::-1]
    assert digest(make_scene("validation", 3, seed=1)) != forward[3]


def test_splits_are_disjoint():
    seen = {split: {digest(make_scene(split, i)) for i in range(200)} for split in ("train", "validation", "test")}
    assert all(len(scenes) == 200 for scenes in seen.values())
    assert len(set.union(*seen.values())) == 600


@pytest.mark.parametrize("config", CONFIGS + STYLED)
def test_objects_are_inside_visible_and_counted(config):
    counts = set()
    for index in range(150):
        scene = make_scene("train", index, config)
        size = config.image_size
        assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
        assert scene.masks.shape == (len(scene.names), size, size) and scene.masks.dtype == bool
        assert config.min_objects <= len(scene.names) <= config.max_objects
        assert set(scene.names) <= set(concept_names(config.vocabulary))
        assert scene.background[0] in config.backgrounds and scene.background[1] in PALETTE
        assert scene.visible.min() >= MIN_VISIBLE
        for placement, mask, box, visible in zip(
            scene.layout.objects, scene.masks, scene.boxes, scene.visible, strict=True
        ):
            whole = sprite(placement.name, placement.size, placement.flip, scene.layout.style)[1]
            assert placement.x >= 0 and placement.x + whole.shape[1] <= size
            assert placement.y >= 0 and placement.y + whole.shape[0] <= size
            assert visible == mask.sum() / whole.sum()
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        counts.add(len(scene.names))
    assert counts == set(range(config.min_objects, config.max_objects + 1))


@pytest.mark.parametrize("style", STYLES)
def test_masks_are_what_the_image_shows(style):
    """Against a plain drawing, object by object, with floating-point alpha."""
    for index in range(60 if style == "noto" else 20):
        scene = make_scene("test", index, SceneConfig(styles=(style,)))
        empty = render(replace(scene.layout, objects=()))
        drawn, owner = empty.image.astype(float), np.full(scene.image.shape[:2], -1)
        for i, placement in enumerate(scene.layout.objects):
            pixels, _ = sprite(placement.name, placement.size, placement.flip, style)
            for row, column in np.ndindex(pixels.shape[:2]):
                y, x = placement.y + row, placement.x + column
                alpha = pixels[row, column, 3] / 255
                drawn[y, x] = pixels[row, column, :3] + (1 - alpha) * drawn[y, x]
                if alpha > 0.5:
                    owner[y, x] = i
        assert np.abs(drawn - scene.image).max() <= 2
        assert scene.masks.sum(0).max() <= 1, "disjoint"
        assert all(np.array_equal(mask, owner == i) for i, mask in enumerate(scene.masks))


def test_removing_an_object_changes_its_pixels_only():
    for index in range(60):
        scene = make_scene("test", index)
        for i, placement in enumerate(scene.layout.objects):
            without = render(scene.layout.without(i))
            changed = (without.image != scene.image).any(-1)
            height, width = sprite(placement.name, placement.size)[1].shape
            window = np.zeros_like(changed)
            window[placement.y : placement.y + height, placement.x : placement.x + width] = True
            assert not changed[~window].any()
            assert changed[scene.masks[i]].mean() > 0.6  # what remains may lie under, or look like, its neighbours
            assert without.names == scene.names[:i] + scene.names[i + 1 :]
            others = np.delete(scene.masks, i, 0)
            assert (without.masks >= others).all(), "the others only gain pixels"


def test_replaced_and_recoloured():
    for index in range(60):
        scene = make_scene("test", index, SceneConfig(styles=STYLES))
        layout = scene.layout.replaced(0, "rainbow")
        new, old = layout.objects[0], scene.layout.objects[0]
        height, width = sprite("rainbow", new.size, style=layout.style)[1].shape
        assert new.x >= 0 and new.y >= 0 and new.x + width <= 64 and new.y + height <= 64
        assert (new.name, new.size, new.flip) == ("rainbow", old.size, old.flip)
        assert layout.objects[1:] == scene.layout.objects[1:]
        recoloured = render(scene.layout.recoloured("green"))
        assert np.array_equal(recoloured.masks, scene.masks)
        assert recoloured.background == (scene.background[0], "green")
        edits = (layout, recoloured.layout, scene.layout.without(0))
        assert all(edit.style == scene.layout.style for edit in edits)


def test_a_scene_is_drawn_in_one_style():
    config = SceneConfig(styles=("noto", "twemoji"))
    styles = []
    for index in range(100):
        scene = make_scene("train", index, config)
        other = "twemoji" if scene.layout.style == "noto" else "noto"
        alone = make_scene("train", index, SceneConfig(styles=(scene.layout.style,)))
        assert digest(scene) == digest(alone), "which styles else there are does not matter"
        assert (render(replace(scene.layout, objects=scene.layout.objects[-1:])).masks >= scene.masks[-1:]).all()
        assert alone.names == make_scene("train", index, SceneConfig(styles=(other,))).names
        styles.append(scene.layout.style)
    assert set(styles) == {"noto", "twemoji"} and 30 < styles.count("noto") < 70
    assert styles != [make_scene("validation", i, config).layout.style for i in range(100)]


def test_held_out_pairs():
    names = concept_names("full")
    pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
    held_out = {pair for pair in pairs if is_held_out_pair(*pair)}
    assert 0.08 < len(held_out) / len(pairs) < 0.12
    assert all(is_held_out_pair(b, a) for a, b in held_out)
    assert not any(is_held_out_pair(name, name) for name in names)
    crowded = SceneConfig(min_objects=12, max_objects=12)
    assert not any(make_scene("train", i).has_held_out_pair for i in range(300))
    assert not any(make_scene("train", i, crowded).has_held_out_pair for i in range(50))
    for split in ("validation", "test"):
        share = np.mean([make_scene(split, i).has_held_out_pair for i in range(300)])
        assert 0.25 < share < 0.5


def test_held_out_property_looks_at_all_pairs():
    scene = next(s for i in range(100) if (s := make_scene("test", i)).has_held_out_pair and len(s.names) > 2)
    assert any(is_held_out_pair(a, b) for a in scene.names for b in scene.names)


def test_repetition_and_backgrounds():
    scenes = [make_scene("train", i) for i in range(1000)]
    repeated = np.mean([len(set(scene.names)) < len(scene.names) for scene in scenes])
    assert 0.07 < repeated < 0.13
    for kind in BACKGROUND_KINDS:
        assert 0.28 < np.mean([scene.background[0] == kind for scene in scenes]) < 0.39
    assert {scene.background[1] for scene in scenes} == set(PALETTE)


def test_noise_is_smooth_and_faint():
    deviations, steps = [], []
    for variant in range(100):
        image = render(Layout(64, Background("noise", "gray", variant=variant), ())).image[..., 0].astype(float) / 255
        deviations.append(image.std())
        steps.append(np.abs(np.diff(image, axis=0)).mean())
    assert 0.02 < np.mean(deviations) < 0.04
    assert np.mean(steps) < 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 8}, "at least 16"),
        ({"min_objects": 4, "max_objects": 3}, "min_objects <= max_objects"),
        ({"min_objects": 0}, "min_objects"),
        ({"max_objects": 13}, "12"),
        ({"object_size": (0.5, 0.2)}, "range"),
        ({"object_size": (0.05, 0.2)}, "under 4 pixels"),
        ({"vocabulary": "huge"}, "tiny, full, large"),
        ({"styles": ()}, "noto, twemoji, openmoji"),
        ({"styles": "noto"}, "sequence"),
        ({"styles": ("noto", "cartoon")}, "noto, twemoji, openmoji, not .*cartoon"),
        ({"backgrounds": ("photo",)}, "photo"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SceneConfig(**changes)


def test_streams_keep_their_numbers():
    """A model that is published was trained and measured on what they give."""
    assert STREAMS == {
        "scene": 0, "concepts": 1, "caption": 2, "question": 3, "text_to_image": 4, "edit": 5, "referring": 6,
        "two_images": 7, "text_only": 8, "conversation": 9, "presence": 10, "outlines": 11, "presence_evaluation": 12,
        "wordings": 13, "style": 14, "redrawing": 15, "placement": 16, "relation": 17, "relations": 18,
        "out_of_scope": 19, "places": 20, "two_captions": 21, "comparisons": 22,
    }  # fmt: skip
    assert set(TASKS) < set(STREAMS) and len(set(STREAMS.values())) == len(STREAMS)
    first = {int(scene_rng("test", 3, 5, name).integers(2**62)) for name in STREAMS}
    assert len(first) == len(STREAMS)
    expected = np.random.default_rng((5, 2, 3, 12)).integers(2**62)
    assert scene_rng("test", 3, seed=5, stream="presence_evaluation").integers(2**62) == expected
    with pytest.raises(ValueError, match="'chess'"):
        scene_rng("test", 0, stream="chess")


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="train, validation, test"):
        make_scene("dev", 0)
    with pytest.raises(ValueError, match="negative"):
        make_scene("train", -1)
