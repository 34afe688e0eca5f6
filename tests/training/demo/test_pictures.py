"""Pictures that are read, made, and enlarged."""

import numpy as np
import pytest
from PIL import Image

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
