"""Which stamps are photographs of one object, and their cut-outs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .names import name_split, object_name

LONGEST_SIDE = 400  # of a cut-out, in pixels
SHORTEST_SIDE = 90  # of what is taken: the longer side, in pixels
COVERAGE = (0.10, 0.97)  # of the cut-out's box: less is a line, more a picture with its own ground
FEWEST_COLOURS = 60  # at 4 bits a channel: fewer are drawings

# Folders of drawings, signs and things that are not one object.
_FOLDERS = {"cartoon", "symbols", "flags", "roadsigns", "seasonal", "houses", "planets", "moon", "naturalforces"}
# Seen on contact sheets, by path without suffix below stamps/.
EXCLUDED = {
    # drawings
    "clothes/button", "clothes/hats/feathered_hat", "clothes/hats/propeller_hat", "food/pizza", "people/body_parts/eye",
    # several objects, or stray pieces beside the object
    "animals/mammals/wildboar", "military/final-roll-call", "plants/flowers/flower4", "plants/flowers/flower7",
    "vehicles/emergency/sedan_police", "vehicles/ship/chineseJunk",
    # the object with a piece of its ground
    "animals/birds/albino_peahen", "animals/mammals/bovines/indian_blackbuck", "animals/mammals/cats/tiger_sumatran",
    "animals/mammals/dogs/fox", "animals/marsupials/koala",
    # cut badly
    "animals/mammals/apes/tamarin_emperor", "household/key",
}  # fmt: skip


@dataclass(frozen=True)
class CutOut:
    """One object.

    Attributes:
        name: its noun.
        category: the folder below stamps/, such as "animals/mammals/cats".
        split: "train", "validation" or "test", by name.
        source: the picture's path below stamps/.
        coverage: fraction of the cut-out's box that is the object (alpha above one half).
        picture: RGBA, cropped to the object, longer side at most `LONGEST_SIDE`.
    """

    name: str
    category: str
    split: str
    source: str
    coverage: float
    picture: Image.Image


def find_cutouts(stamps: Path) -> Iterator[CutOut]:
    """The photographic cut-outs below a folder `stamps`, in the order of their paths.

    Raises:
        ValueError: for a picture that cannot be read.
    """
    seen = set()
    for path in sorted(stamps.rglob("*.png"), key=lambda path: path.relative_to(stamps).as_posix()):
        source = path.relative_to(stamps)
        stamp, caption = source.with_suffix("").as_posix(), path.with_suffix(".txt")
        if _FOLDERS & set(source.parts) or stamp in EXCLUDED or "mirror" in source.stem or not caption.is_file():
            continue
        name = object_name(stamp, caption.read_text(encoding="utf-8").partition("\n")[0])
        picture = _cut(path)
        if name is None or picture is None or (content := (picture.size, picture.tobytes())) in seen:
            continue
        seen.add(content)
        yield CutOut(
            name=name,
            category=source.parent.as_posix(),
            split=name_split(name),
            source=source.as_posix(),
            coverage=round(float(_object_pixels(picture).mean()), 4),
            picture=_shrunk(picture),
        )


def _cut(path: Path) -> Image.Image | None:
    """The object of a picture (RGBA), or None where it is none to take."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGBA")
    except OSError as error:
        raise ValueError(f"The picture {path} cannot be read ({error}): unpack the package again.") from error
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()
    if box is None:
        return None
    picture = picture.crop(box)
    mask = _object_pixels(picture)
    colours = np.unique(np.array(picture)[mask][:, :3] // 16, axis=0)
    taken = max(picture.size) >= SHORTEST_SIDE and COVERAGE[0] <= mask.mean() <= COVERAGE[1]
    return picture if taken and len(colours) >= FEWEST_COLOURS else None


def _object_pixels(picture: Image.Image) -> np.ndarray:
    return np.array(picture.getchannel("A")) > 127


def _shrunk(picture: Image.Image) -> Image.Image:
    """No longer than `LONGEST_SIDE`; resized premultiplied, so that transparent pixels colour no edge."""
    scale = min(1, LONGEST_SIDE / max(picture.size))
    size = [max(1, round(side * scale)) for side in picture.size]
    return picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
