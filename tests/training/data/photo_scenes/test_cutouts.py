"""Which pictures of a tree of stamps are taken, and what of them."""

import numpy as np
import pytest

from training.data.photo_scenes.cutouts import EXCLUDED, LONGEST_SIDE, find_cutouts

from .conftest import photograph, write_stamp


def test_what_is_no_photograph_of_one_object_is_left_out(tmp_path):
    good = photograph(120, 100, 50)
    write_stamp(tmp_path, "animals/lion", "A lion.", good)
    for number, (stamp, caption) in enumerate(
        [
            ("animals/cartoon/lion", "A lion."), ("symbols/chess/king", "A king."), ("town/flags/red", "A flag."),
            ("animals/lion_mirror", "A lion."), ("animals/nameless", None), ("animals/sentence", "This is what I like"),
            (min(EXCLUDED), "A lion."),
        ]
    ):  # fmt: skip
        write_stamp(tmp_path, stamp, caption, photograph(120, 100, 50, seed=1 + number))
    write_stamp(tmp_path, "animals/same-picture", "A tiger.", good)
    write_stamp(tmp_path, "animals/small", "A tiger.", photograph(89, 80, 50))
    write_stamp(tmp_path, "animals/drawing", "A tiger.", good // 128 * 128 + np.uint8(127))
    line, full, empty = photograph(120, 100, 50), photograph(120, 100, 50), photograph(120, 100, 50)
    line[..., 3] = 255 * (abs(np.subtract.outer(np.arange(100), np.arange(120))) < 4)
    full[..., 3], empty[..., 3] = 255, 100
    for stamp, pixels in (("line", line), ("full", full), ("empty", empty)):
        write_stamp(tmp_path, f"animals/{stamp}", "A tiger.", pixels)
    assert [cutout.source for cutout in find_cutouts(tmp_path)] == ["animals/lion.png"]


def test_cutouts_are_cropped_shrunk_and_described(tmp_path):
    pixels = np.zeros((700, 900, 4), np.uint8)
    pixels[100:401, 50:651] = photograph(601, 301, 50)
    write_stamp(tmp_path, "animals/cats/lion", "A lion.", pixels)
    (cutout,) = find_cutouts(tmp_path)
    assert cutout.picture.mode == "RGBA" and cutout.picture.size == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert (cutout.name, cutout.category, cutout.split) == ("lion", "animals/cats", "test")
    assert cutout.coverage == pytest.approx(np.pi / 4, abs=0.01)
    middle = np.array(cutout.picture)[80:120, 100:300]
    assert np.all(middle[..., 0] == 50) and np.all(middle[..., 3] == 255)


def test_a_damaged_picture_is_named(tmp_path):
    write_stamp(tmp_path, "animals/lion", "A lion.", photograph(120, 100, 50))
    (tmp_path / "animals/lion.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"lion\.png cannot be read"):
        list(find_cutouts(tmp_path))
