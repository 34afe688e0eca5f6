"""The atlas: enough objects, described truly, each of them visible."""

import unicodedata

import numpy as np
import pytest

from training.data import concept_names
from training.data.emoji_scenes.render_atlas import plural
from training.data.emoji_scenes.sprites import ATLAS, atlas_entries, sprite


def test_vocabularies():
    tiny, full = concept_names("tiny"), concept_names("full")
    assert len(tiny) == 60 and len(full) >= 128
    assert len(set(full)) == len(full) and set(tiny) < set(full)
    assert all(name == name.lower().strip() for name in full)
    with pytest.raises(ValueError, match="tiny, full"):
        concept_names("huge")


def test_entries_agree_with_unicode():
    entries = list(atlas_entries().values())
    for entry in entries:
        character = chr(int(entry["codepoint"].removeprefix("U+"), 16))
        assert entry["unicode_name"] == unicodedata.name(character)
    assert len({entry["noun"] for entry in entries}) == len(entries)
    assert "SIL OPEN FONT LICENSE Version 1.1" in (ATLAS / "LICENSE").read_text()


def test_plurals():
    cases = {"pear": "pears", "cherry": "cherries", "fox": "foxes", "potato": "potatoes", "peach": "peaches"}
    assert {name: plural(name) for name in cases} == cases


@pytest.mark.parametrize("size", [16, 27, 150])
def test_sprites_fill_their_size(size):
    for name in concept_names("full"):
        pixels, mask = sprite(name, size)
        assert max(mask.shape) == size and pixels.shape == (*mask.shape, 4)
        assert mask.mean() > 0.25, name
        assert (pixels[..., :3] <= pixels[..., 3:]).all(), "premultiplied"
        assert np.array_equal(mask, pixels[..., 3] > 127)
        flipped, flipped_mask = sprite(name, size, flip=True)
        assert np.array_equal(flipped, pixels[:, ::-1]) and np.array_equal(flipped_mask, mask[:, ::-1])


def test_tiny_objects_look_different_at_16_pixels():
    canvases = []
    for name in concept_names("tiny"):
        pixels, mask = sprite(name, 16)
        canvas = np.full((16, 16, 3), 128.0)
        height, width = mask.shape
        top, left = (16 - height) // 2, (16 - width) // 2
        keep = 1 - pixels[..., 3:] / 255
        canvas[top : top + height, left : left + width] *= keep
        canvas[top : top + height, left : left + width] += pixels[..., :3]
        canvases.append(canvas)
    canvases = np.stack(canvases)
    distance = np.sqrt(((canvases[:, None] - canvases) ** 2).mean((2, 3, 4)))
    mirrored = np.sqrt(((canvases[:, None] - canvases[:, :, ::-1]) ** 2).mean((2, 3, 4)))
    distance = np.minimum(distance, mirrored)[~np.eye(len(canvases), dtype=bool)]
    assert distance.min() > 20  # of 255 grey levels
