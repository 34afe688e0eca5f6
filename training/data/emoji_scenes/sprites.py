"""The objects of EmojiScenes: their names and their pictures, from the atlas that `render_atlas.py` made."""

import json
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

ATLAS = Path(__file__).parent / "atlas"
VOCABULARIES = ("tiny", "full")


@cache
def atlas_entries() -> dict[str, dict]:
    """Name -> entry of `emoji.json` (codepoint, Unicode name, noun, plural), in the order of the atlas' cells."""
    return {entry["name"]: entry for entry in _atlas_index()["objects"]}


@cache
def concept_names(vocabulary: str = "tiny") -> tuple[str, ...]:
    """The object names of a vocabulary: "tiny" (60 names, distinct at 16 pixels) or "full" (all 144)."""
    if vocabulary not in VOCABULARIES:
        raise ValueError(f"unknown vocabulary {vocabulary!r}; choose one of {', '.join(VOCABULARIES)}")
    return tuple(name for name, entry in atlas_entries().items() if vocabulary == "full" or entry["tiny"])


@lru_cache(maxsize=4096)
def sprite(name: str, size: int, flip: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The picture of an object whose longer side is `size` pixels.

    Returns premultiplied RGBA (h, w, 4) uint8 and the object's pixels (h, w) bool (alpha above one half), read-only.
    """
    if flip:
        return tuple(array[:, ::-1] for array in sprite(name, size))
    picture = _cropped_cells()[name]
    scale = size / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    pixels = np.array(picture)
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])  # Lanczos overshoot: premultiplied colour <= alpha
    pixels.setflags(write=False)
    mask = pixels[..., 3] > 127
    mask.setflags(write=False)
    return pixels, mask


@cache
def _atlas_index() -> dict:
    return json.loads((ATLAS / "emoji.json").read_text(encoding="utf-8"))


@cache
def _cropped_cells() -> dict[str, Image.Image]:
    """Name -> tightly cropped, premultiplied picture."""
    cell, columns = _atlas_index()["cell"], _atlas_index()["columns"]
    with Image.open(ATLAS / "emoji.png") as file:
        atlas = file.convert("RGBA")
    cells = {}
    for index, name in enumerate(atlas_entries()):
        x, y = index % columns * cell, index // columns * cell
        picture = atlas.crop((x, y, x + cell, y + cell))
        cells[name] = picture.crop(picture.getchannel("A").getbbox()).convert("RGBa")
    return cells
