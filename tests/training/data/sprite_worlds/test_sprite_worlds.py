from fractions import Fraction

import numpy as np
import pytest

from training.data.sprite_worlds import MultiDSprites, Tetrominoes
from training.data.sprite_worlds.multi_dsprites import ORIENTATIONS, PLACES, SHAPES, sprite_mask
from training.data.sprite_worlds.tetrominoes import COLOURS, tetromino_shapes

WORLDS = [MultiDSprites, Tetrominoes]


@pytest.mark.parametrize("world", WORLDS)
def test_scene_is_made_of_its_seed(world):
    one, again = (world("test", 4, seed=3).scene(2) for _ in range(2))
    assert np.array_equal(one.image, again.image) and np.array_equal(one.masks, again.masks)
    for other in (world("train", 4, seed=3), world("test", 4, seed=4)):
        assert not np.array_equal(one.image, other.scene(2).image)
    assert np.array_equal(one.image, world("test", 9, seed=3).scene(2).image), "however many scenes there are"


@pytest.mark.parametrize("world", WORLDS)
def test_masks_are_disjoint_and_named(world):
    for index in range(30):
        scene = world("train", 30).scene(index)
        assert scene.masks.dtype == bool and scene.image.dtype == np.uint8
        assert scene.masks.shape == (len(scene.names), *scene.image.shape[:2])
        assert scene.masks.any((1, 2)).all() and scene.masks.sum(0).max() == 1


@pytest.mark.parametrize("world", WORLDS)
def test_refuses_what_is_not_there(world):
    with pytest.raises(ValueError, match="unknown split"):
        world("dev", 3)
    with pytest.raises(ValueError, match="num_scenes"):
        world("test", 0)
    with pytest.raises(IndexError, match="not among"):
        world("test", 3).scene(3)


def test_there_are_17_tetrominoes():
    shapes = tetromino_shapes()
    assert len(shapes) == len({(blocks.shape, blocks.tobytes()) for _, blocks in shapes}) == 17
    assert all(blocks.sum() == 4 and min(blocks.shape) == 2 for _, blocks in shapes)
    names = [name for name, _ in shapes]
    assert {name: names.count(name) for name in names} == {"T": 4, "L": 8, "S": 4, "O": 1}


def test_tetrominoes_are_whole_and_of_one_colour_on_black():
    colours = set()
    for index in range(40):
        scene = Tetrominoes("test", 40).scene(index)
        assert scene.image.shape == (35, 35, 3) and len(scene.masks) == 3
        assert not scene.image[~scene.masks.any(0)].any()
        for mask in scene.masks:
            assert mask.sum() == 4 * 5 * 5, "not covered, not cut off"
            lit = scene.image[mask] > 0
            assert (lit == lit[0]).all()
            colours.add(tuple(lit[0].astype(int).tolist()))
    assert colours == set(COLOURS.values())


def test_a_sprite_is_of_one_colour_and_so_is_the_ground():
    counts = set()
    for index in range(40):
        scene = MultiDSprites("test", 40).scene(index)
        assert scene.image.shape == (64, 64, 3)
        for mask in (*scene.masks, ~scene.masks.any(0)):
            assert (scene.image[mask] == scene.image[mask][0]).all()
        counts.add(len(scene.masks))
    assert counts == {1, 2, 3, 4}


def test_sprites_cover_one_another():
    sizes = {int(mask.sum()) for index in range(60) for mask in MultiDSprites("train", 60).scene(index).masks}
    whole = {
        int(sprite_mask(name, Fraction(tenth, 10), turn, 32, 32).sum())
        for name in SHAPES
        for tenth in range(5, 11)
        for turn in range(ORIENTATIONS)
    }
    assert sizes - whole, "some are partly hidden"


@pytest.mark.parametrize("name", SHAPES)
def test_sprites_stay_inside_and_keep_their_size_when_turned(name):
    areas = []
    for turn in range(ORIENTATIONS):
        for x, y in ((PLACES[0], PLACES[-1]), (PLACES[-1], PLACES[0])):
            mask = sprite_mask(name, Fraction(1), turn, x, y)
            areas.append(mask.sum())
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert max(abs(rows - y + 0.5)) <= 16 and max(abs(columns - x + 0.5)) <= 16
    assert max(areas) - min(areas) < 0.15 * max(areas)
    half = sprite_mask(name, Fraction(1, 2), 0, 32, 32).sum()
    assert half == pytest.approx(np.mean(areas) / 4, rel=0.15)


def test_outlines_by_hand():
    """A square of scale 1 has a side of 16·√2 = 22.6 pixels; an ellipse semi-axes of 16 and 8, so an area of 128π."""
    assert sprite_mask("square", Fraction(1), 0, 32, 32).sum() == 22 * 22
    assert sprite_mask("ellipse", Fraction(1), 0, 32, 32).sum() == pytest.approx(128 * np.pi, rel=0.02)
    assert sprite_mask("ellipse", Fraction(1), 10, 32, 32).any(1).sum() == 32, "a quarter turn stands it up"
    heart = sprite_mask("heart", Fraction(1), 0, 32, 32)
    assert np.array_equal(heart, heart[:, ::-1]) and heart[:32].sum() > heart[32:].sum(), "its point is below"
