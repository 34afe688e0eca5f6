"""Tokens at the resolution of pixels: borders of things where the picture has them, tokens as they were elsewhere."""

import numpy as np
import pytest
import torch
from PIL import Image

from processing import sharpen_tokens


def a_disc(size: int = 96, patches: int = 8, radius: float = 25.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red disc on blue, its pixels, and for each patch whether most of it is disc."""
    row, column = np.mgrid[:size, :size] - (size - 1) / 2
    disc = row**2 + column**2 < radius**2
    picture = np.where(disc[..., None], (200, 40, 40), (40, 60, 200)).astype(np.uint8)
    side = size // patches
    ids = disc.reshape(patches, side, patches, side).mean((1, 3)) > 0.5
    return picture, disc, ids.astype(np.int64)


@pytest.mark.parametrize("as_given", [np.asarray, torch.tensor, np.ravel])
def test_borders_follow_the_picture(as_given):
    picture, disc, ids = a_disc()
    coarse = ids.repeat(12, 0).repeat(12, 1) == 1
    sharp = sharpen_tokens(Image.fromarray(picture), as_given(ids), (8, 8))
    assert sharp.shape == (96, 96) and set(np.unique(sharp)) == {0, 1}

    def overlap(found):
        return (found & disc).sum() / (found | disc).sum()

    assert overlap(coarse) < 0.93 and overlap(sharp == 1) > 0.97


def test_patches_amid_their_own_stay_and_no_token_is_lost():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    ids = np.repeat(np.arange(6), 15).reshape(6, 15)
    ids[2, 7] = 6  # a token of one patch
    sharp = sharpen_tokens(picture, ids, (6, 15))
    assert set(np.unique(sharp)) == set(range(7))
    assert (sharp[25, 45] == 6) and (sharp[24:26, 44:46] == 6).all()
    ids = np.zeros((5, 5), int)
    ids[:, 3:] = 1
    sharp = sharpen_tokens(rng.integers(0, 256, (50, 50, 3), dtype=np.uint8), ids, (5, 5))
    assert (sharp[:, :20] == 0).all() and (sharp[:, 40:] == 1).all()


def test_padding_stays_and_takes_nothing():
    ids = np.array([[0, 0, -1], [1, 1, -1]])
    picture = np.full((30, 45, 3), 90, np.uint8)
    sharp = sharpen_tokens(picture, ids, (2, 3))
    assert (sharp[:, 30:] == -1).all() and (sharp[:, :25] >= 0).all()


def test_a_size_that_patches_do_not_divide():
    picture, _, ids = a_disc()
    enlarged = Image.fromarray(picture).resize((131, 127))
    assert sharpen_tokens(enlarged, ids, (8, 8)).shape == (127, 131)


def test_what_does_not_fit_is_refused():
    picture, _, ids = a_disc()
    with pytest.raises(ValueError, match="64 cluster ids do not fit a grid of 4 x 8"):
        sharpen_tokens(picture, ids, (4, 8))
    with pytest.raises(ValueError, match="no borders finer than"):
        sharpen_tokens(picture[:16, :16], ids, (8, 8))
    for wrong in (picture[..., 0], picture / 255, Image.fromarray(picture).convert("RGBA")):
        with pytest.raises(ValueError, match="must be RGB of 8 bits"):
            sharpen_tokens(wrong, ids, (8, 8))
