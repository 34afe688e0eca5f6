"""The objects of EmojiScenes: their names and their pictures, from the atlas that `render_atlas.py` made."""

import json
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..composition import resized_sprite

ATLAS = Path(__file__).parent / "atlas"
STYLES = ("noto", "twemoji", "openmoji")
VOCABULARIES = ("tiny", "full", "large")  # each holds the ones before it


@cache
def atlas_entries() -> dict[str, dict]:
    """Name -> entry of `emoji.json`, in the order of the cells in the atlas of every style.

    An entry holds the codepoint, its Unicode name, noun, plural and the smallest vocabulary with the object.
    """
    return {entry["name"]: entry for entry in _atlas_index()["objects"]}


@cache
def concept_names(vocabulary: str = "tiny") -> tuple[str, ...]:
    """The object names of a vocabulary: "tiny" (60, distinct at 16 pixels), "full" (144) or "large" (320).

    Raises:
        ValueError: for an unknown vocabulary.
    """
    if vocabulary not in VOCABULARIES:
        raise ValueError(f"unknown vocabulary {vocabulary!r}; choose one of {', '.join(VOCABULARIES)}")
    held = VOCABULARIES[: VOCABULARIES.index(vocabulary) + 1]
    return tuple(name for name, entry in atlas_entries().items() if entry["vocabulary"] in held)


def sprite(name: str, size: int, flip: bool = False, style: str = "noto") -> tuple[np.ndarray, np.ndarray]:
    """The picture of an object whose longer side is `size` pixels, in one of `STYLES`.

    Returns premultiplied RGBA (h, w, 4) uint8 and the object's pixels (h, w) bool (alpha above one half), read-only.
    The sides' ratio differs between styles.

    Raises:
        ValueError: for an unknown style.
    """
    pixels, mask = _sprite(name, size, style)
    return (pixels[:, ::-1], mask[:, ::-1]) if flip else (pixels, mask)


@lru_cache(maxsize=4096)
def _sprite(name: str, size: int, style: str) -> tuple[np.ndarray, np.ndarray]:
    return resized_sprite(_cropped_cells(style)[name], size)


@cache
def _atlas_index() -> dict:
    return json.loads((ATLAS / "emoji.json").read_text(encoding="utf-8"))


@cache
def _cropped_cells(style: str) -> dict[str, Image.Image]:
    """Name -> tightly cropped, premultiplied picture."""
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; choose one of {', '.join(STYLES)}")
    cell, columns = _atlas_index()["cell"], _atlas_index()["columns"]
    with Image.open(ATLAS / f"{style}.webp") as file:
        atlas = file.convert("RGBA")
    cells = {}
    for index, name in enumerate(atlas_entries()):
        x, y = index % columns * cell, index // columns * cell
        picture = atlas.crop((x, y, x + cell, y + cell))
        cells[name] = picture.crop(picture.getchannel("A").getbbox()).convert("RGBa")
    return cells
