"""Pictures that are read, made, and enlarged."""

import os
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.training.demo.demo_testing import PROCESSOR, SIZE, gradient
from training.data import SceneConfig, make_scene
from training.demo import pictures


def test_scenes_are_of_the_test_split_and_of_rising_complexity():
    shown = pictures.make_scenes(4, SIZE)
    assert [len(picture.scene.names) for picture in shown] == [1, 3, 4, 6]
    expected = make_scene("test", 1, SceneConfig(image_size=SIZE, min_objects=3, max_objects=3))
    assert np.array_equal(np.array(shown[1].image), expected.image)
    assert pictures.make_scenes(0, SIZE) == []
    with pytest.raises(ValueError, match="-1"):
        pictures.make_scenes(-1, SIZE)


def test_orientation_and_transparency(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    gradient(40, 20).save(tmp_path / "turned.png", exif=exif)
    turned = pictures.read_picture(str(tmp_path / "turned.png"), PROCESSOR)
    assert turned.name == "turned" and turned.image.size == (20, 40)
    assert turned.image.getpixel((19, 0)) == gradient(40, 20).getpixel((0, 0))

    Image.new("RGBA", (5, 5), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert pictures.read_picture(str(tmp_path / "clear.png"), PROCESSOR).image.getpixel((2, 2)) == (255, 255, 255)


def test_pictures_that_are_too_large_are_not_decoded(tmp_path, monkeypatch):
    def refused(name, reason):
        with pytest.raises(ValueError, match=f"{name}' cannot be read: .*{reason}"):
            pictures.read_picture(str(tmp_path / name), PROCESSOR)

    monkeypatch.setattr(pictures, "MAX_PIXELS", 5_000)
    monkeypatch.setattr(pictures, "MAX_JPEG_PIXELS", 200_000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("It is decoded."))
    for suffix in ("png", "webp", "tiff", "gif", "bmp"):
        Image.new("RGB", (100, 51)).save(tmp_path / f"large.{suffix}")
        refused(f"large.{suffix}", "too large with 100 x 51 pixels: a .* may have 0 million")
    Image.new("RGB", (500, 401)).save(tmp_path / "large.jpg")
    refused("large.jpg", "500 x 401")
    (tmp_path / "frame.gif").write_bytes(GIF_OF_LARGE_FRAME)
    refused("frame.gif", "6000 x 6000")
    (tmp_path / "tile.tiff").write_bytes(TIFF_OF_LARGE_TILE)
    refused("tile.tiff", "40000 x 40000")
    monkeypatch.setattr(pictures, "MAX_SIDE", 50)
    Image.new("RGB", (1, 51)).save(tmp_path / "thin.png")
    refused("thin.png", "1 x 51")
    monkeypatch.setattr(pictures, "MAX_BYTES", 10)
    refused("thin.png", "MiB")


# of 1 x 1 pixels, and inside a frame of 6000 x 6000
GIF_OF_LARGE_FRAME = (
    struct.pack("<6sHH3x", b"GIF89a", 1, 1)
    + b","
    + struct.pack("<HHHHB", 0, 0, 6000, 6000, 0)
    + b"\x08\x03\0\x01\x04\0;"
)
# of 10 x 10 pixels, in one compressed tile of 40000 x 40000
TAGS = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 40_000, 324: 8, 325: 1}
TIFF_OF_LARGE_TILE = struct.pack("<2sHIH", b"II", 42, 8, len(TAGS)) + b"".join(
    struct.pack("<HHII", tag, 4, 1, value) for tag, value in TAGS.items()
)


def test_a_large_jpeg_is_read_at_a_part_of_its_size(tmp_path, monkeypatch):
    path = str(tmp_path / "photograph.jpg")
    gradient(401, 300).save(path, quality=95)
    whole = pictures.read_picture(path, PROCESSOR).image
    assert whole.size == (401, 300)
    for most, size in ((100_000, (201, 150)), (10_000, (101, 75)), (2_000, (51, 38))):
        monkeypatch.setattr(pictures, "MAX_PIXELS", most)
        part = pictures.read_picture(path, PROCESSOR).image
        assert part.size == size
        difference = np.asarray(part, int) - np.asarray(whole.resize(size, Image.Resampling.BOX), int)
        assert np.abs(difference).mean() < 3


def test_what_takes_too_long_to_decode_is_given_up(tmp_path, monkeypatch):
    gradient(40, 20).save(tmp_path / "slow.jpg")
    monkeypatch.setattr(pictures, "MAX_SECONDS", -1)
    with pytest.raises(ValueError, match="slow.jpg' cannot be read: to decode it takes more than -1 seconds"):
        pictures.read_picture(str(tmp_path / "slow.jpg"), PROCESSOR)


def test_pipes_devices_and_other_formats_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero", tmp_path):
        with pytest.raises(ValueError, match="cannot be read: there is no such file, or it is a folder or a device"):
            pictures.read_picture(str(path), PROCESSOR)
    Image.new("RGB", (5, 5)).save(tmp_path / "program.eps")  # PIL would start Ghostscript
    with pytest.raises(ValueError, match="cannot identify image file"):
        pictures.read_picture(str(tmp_path / "program.eps"), PROCESSOR)


def test_small_pictures_are_enlarged_by_a_whole_factor_without_blur():
    small = gradient(5, 3)
    shown = pictures.enlarge(small, 23, 100)
    assert shown.size == (20, 12)
    assert np.array_equal(np.asarray(shown), np.asarray(small).repeat(4, 0).repeat(4, 1))
    assert pictures.enlarge(small, 8, 100).size == (8, 5)  # below twice the size there is no whole factor
    assert pictures.enlarge(gradient(1000, 3), 500, 500).size == (500, 2)
    centred = pictures.centred(shown, 24, 12)
    assert np.array_equal(np.asarray(centred.crop((2, 0, 22, 12))), np.asarray(shown))
    assert centred.getpixel((0, 0)) == centred.getpixel((23, 11)) == (255, 255, 255)


def test_an_outline_has_the_pictures_own_pixels():
    picture, mask = Image.new("RGB", (64, 32), "red"), np.zeros((32, 64), bool)
    mask[:, 32:] = True
    outlined = pictures.outline(picture, mask, 512)
    assert outlined.size == (512, 256)
    assert outlined.getpixel((500, 100)) == (255, 0, 0) and outlined.getpixel((100, 100)) != (255, 0, 0)
    assert pictures.outline(gradient(300, 100), np.zeros((100, 300), bool), 512).size == (600, 200)


def test_counts_are_words():
    assert pictures.count(1, "token") == "1 token" and pictures.count(0, "token") == "0 tokens"
