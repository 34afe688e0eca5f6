"""The atlas: enough objects, described truly, each of them visible in every style."""

import hashlib
import unicodedata

import numpy as np
import pytest
from PIL import Image

from training.data import concept_names
from training.data.emoji_scenes.sprites import ATLAS, STYLES, VOCABULARIES, atlas_entries, sprite

# Of the 144 pictures that the shipped models saw
NOTO_CELLS = "7d582ac75395e64f8dc6e8ac6324d1a7c97dfaed282227542443e15ff33b47a8"


def test_vocabularies():
    tiny, full, large = map(concept_names, VOCABULARIES)
    assert (len(tiny), len(full), len(large)) == (60, 144, 320)
    assert full[:60] == tiny and large[:144] == full, "the order of a concept bank stays"
    assert len(set(large)) == len(large)
    assert all(name == name.lower().strip() for name in large)
    with pytest.raises(ValueError, match="tiny, full, large"):
        concept_names("huge")


def test_entries_agree_with_unicode():
    for entry in atlas_entries().values():
        character = chr(int(entry["codepoint"].removeprefix("U+"), 16))
        assert entry["unicode_name"] == unicodedata.name(character)


def test_what_is_said_names_one_object():
    entries = list(atlas_entries().values())
    for form in ("name", "noun", "plural", "codepoint"):
        assert len({entry[form] for entry in entries}) == len(entries)
    nouns, plurals = {entry["noun"]: entry for entry in entries}, {entry["plural"]: entry for entry in entries}
    assert all(nouns[phrase] is plurals[phrase] for phrase in nouns.keys() & plurals.keys())  # "sheep"


@pytest.mark.parametrize(
    ("style", "title", "source"),
    [
        ("noto", "SIL OPEN FONT LICENSE Version 1.1", "https://github.com/googlefonts/noto-emoji"),
        ("twemoji", "Creative Commons Attribution 4.0 International Public License", "@twemoji/svg"),
        ("openmoji", "Creative Commons Attribution-ShareAlike 4.0 International Public", "https://openmoji.org"),
    ],
)
def test_every_style_has_its_licence(style, title, source):
    licence = (ATLAS / f"LICENSE.{style}").read_text()
    assert title in licence and source in licence and f"{style}.webp" in licence


def test_the_first_cells_are_as_they_were():
    with Image.open(ATLAS / "noto.webp") as file:
        first = file.convert("RGBA").crop((0, 0, 12 * 96, 12 * 96))
    assert hashlib.sha256(first.tobytes()).hexdigest() == NOTO_CELLS


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [16, 27, 150])
def test_sprites_fill_their_size(size, style):
    for name in concept_names("large"):
        pixels, mask = sprite(name, size, style=style)
        assert max(mask.shape) == size and pixels.shape == (*mask.shape, 4)
        assert mask.mean() > (0.25 if style == "noto" and name in concept_names("full") else 0.1), name
        assert (pixels[..., :3] <= pixels[..., 3:]).all(), "premultiplied"
        assert np.array_equal(mask, pixels[..., 3] > 127)
        flipped, flipped_mask = sprite(name, size, flip=True, style=style)
        assert np.array_equal(flipped, pixels[:, ::-1]) and np.array_equal(flipped_mask, mask[:, ::-1])


def test_styles_differ():
    for name in concept_names("large"):
        looks = np.stack([on_gray(name, 24, style) for style in STYLES])
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert np.abs(looks[one] - looks[other]).mean() > 2, name
    assert sprite("owl", 24)[0] is sprite("owl", 24, style="noto")[0]
    with pytest.raises(ValueError, match="'cartoon'.* noto, twemoji, openmoji"):
        sprite("owl", 24, style="cartoon")


def test_tiny_objects_look_different_at_16_pixels():
    assert nearest_looks([on_gray(name, 16) for name in concept_names("tiny")]) > 20  # of 255 grey levels


@pytest.mark.parametrize("style", STYLES)
def test_no_object_looks_like_another(style):
    assert nearest_looks([on_gray(name, 24, style) for name in concept_names("large")]) > 10


def on_gray(name: str, size: int, style: str = "noto") -> np.ndarray:
    """(size, size, 3) float64: the object in the middle of a gray square."""
    pixels, mask = sprite(name, size, style=style)
    canvas = np.full((size, size, 3), 128.0)
    height, width = mask.shape
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] *= 1 - pixels[..., 3:] / 255
    canvas[top : top + height, left : left + width] += pixels[..., :3]
    return canvas


def nearest_looks(pictures: list[np.ndarray]) -> float:
    """The smallest root mean square difference between two pictures, also where one is mirrored."""
    pictures = np.stack(pictures)
    nearest = np.inf
    for index, picture in enumerate(pictures[:-1]):
        for later in (pictures[index + 1 :], pictures[index + 1 :, :, ::-1]):
            nearest = min(nearest, np.sqrt(((later - picture) ** 2).mean((1, 2, 3))).min())
    return nearest
