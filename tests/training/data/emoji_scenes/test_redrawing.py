"""Objects in colours and lines that nobody drew: the shapes stay, and so do all scenes that are not redrawn."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from training.data import SceneConfig, make_scene
from training.data.emoji_scenes.redrawing import redrawn_sprite
from training.data.emoji_scenes.sprites import sprite

REDRAWN = SceneConfig(styles=("noto", "twemoji"), redrawn=1.0)


def test_the_shape_stays_and_the_colours_are_the_seeds():
    pixels, mask = sprite("owl", 24)
    redrawn = [redrawn_sprite("owl", 24, False, "noto", seed) for seed in range(20)]
    for new, new_mask in redrawn:
        assert np.array_equal(new[..., 3], pixels[..., 3]) and np.array_equal(new_mask, mask)
        assert (new[..., :3] <= new[..., 3:]).all()  # premultiplied
    assert len({new.tobytes() for new, _ in redrawn}) == 20
    redrawn_sprite.cache_clear()
    assert np.array_equal(redrawn_sprite("owl", 24, False, "noto", 3)[0], redrawn[3][0])
    with pytest.raises(ValueError, match="read-only"):
        redrawn[0][0][0, 0] = 0


def test_lines_are_dark_and_lie_where_the_drawing_changes():
    """A heart has nothing but its outline: where it is lined, its border is dark and its middle is not."""
    _, mask = sprite("purple heart", 40)
    middle = tuple(side // 2 for side in mask.shape)
    lined = 0
    for seed in range(40):
        brightness = redrawn_sprite("purple heart", 40, False, "noto", seed)[0][..., :3].max(-1)
        border = brightness[middle[0], np.flatnonzero(mask[middle[0]])[0]]
        lined += int(brightness[middle]) - int(border) > 60
    assert 10 < lined < 30


def test_scenes_that_are_not_redrawn_stay():
    plain = replace(REDRAWN, redrawn=0.0)
    half = replace(REDRAWN, redrawn=0.5)
    changed = 0
    for index in range(30):
        before, after = make_scene("train", index, plain), make_scene("train", index, half)
        assert np.array_equal(before.masks, after.masks) and before.names == after.names
        changed += not np.array_equal(before.image, after.image)
        outside = ~before.masks.any(0)
        soft = np.abs(before.image.astype(int) - after.image)[outside].max()  # of half-transparent borders alone
        assert soft <= 128
    assert 7 < changed < 23


def test_every_machine_redraws_the_same_bytes():
    digest = hashlib.sha256(b"".join(make_scene("train", index, REDRAWN).image.tobytes() for index in range(20)))
    assert digest.hexdigest()[:16] == "06ef4a9ed62d7de1"


@pytest.mark.parametrize("redrawn", [-0.1, 1.1])
def test_a_part_is_between_0_and_1(redrawn):
    with pytest.raises(ValueError, match="from 0 to 1"):
        SceneConfig(redrawn=redrawn)
