"""Files that other people made: read to their end, and refused in words where they are broken."""

import io
import json
import os
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from .values import quoted, text


def read_json(file: Path, kind: type) -> list | dict:
    """What a JSON file holds, which must be a list or a dict, as `kind` says; else a ValueError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deeply to be read; rows of pictures and texts are flat") from error
    if not isinstance(content, kind):
        raise ValueError(f"{file} must hold a {kind.__name__}, not a {type(content).__name__}")
    return content


def find_picture(name: object, *folders: Path) -> str:
    """The path of a picture that a file names, in the first of some folders that has it.

    What a file names must lie in one of these folders, wherever the folders themselves lie.

    Raises:
        ValueError: for no path, one to nowhere, and one out of the folders: by `..`, from the root, or by a link.
    """
    path = text(name, "the path of a picture")
    found = [str(folder / path) for folder in folders if os.path.isfile(folder / path)]
    if not found:
        raise ValueError(f"picture {path!r} does not exist in {' or '.join(map(str, folders))}")
    real = Path(os.path.realpath(found[0]))
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
        raise ValueError(f"picture {path!r} leads out of the folder, to {str(real)!r}: copy it into the folder")
    return found[0]


def check_picture(picture: object, is_mask: bool = False) -> tuple[int, int]:
    """Reads a picture to its end; its (width, height)."""
    if isinstance(picture, Image.Image):
        return _read(picture, is_mask)
    if isinstance(picture, str):
        return _check_file(picture, is_mask)
    if isinstance(picture, dict) and isinstance(picture.get("bytes"), bytes):
        return _read(io.BytesIO(picture["bytes"]), is_mask, picture.get("path"))
    if isinstance(picture, dict) and isinstance(picture.get("path"), str):
        return _check_file(picture["path"], is_mask)
    raise ValueError(f"not a picture: {quoted(picture)}")


def _check_file(path: str, is_mask: bool) -> tuple[int, int]:
    state = os.stat(path) if os.path.isfile(path) else None
    if state is None:
        raise ValueError(f"picture {path} does not exist")
    return _read_file(path, is_mask, state.st_mtime_ns)


@cache  # many rows ask about the same picture
def _read_file(path: str, is_mask: bool, modified: int) -> tuple[int, int]:
    return _read(path, is_mask, path)


def _read(source: object, is_mask: bool, name: str | None = None) -> tuple[int, int]:
    """Loads a path, a binary file or a PIL image; (width, height) as it will be shown."""
    try:
        with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as picture:
            turn = picture.getexif().get(ExifTags.Base.Orientation, 1)  # `datasets` turns such pictures upright
            size = picture.size[::-1] if turn >= 5 else picture.size
            if picture is not source and not is_mask:
                picture.draft("RGB", (1, 1))  # lets the JPEG decoder skip most of its work, though not of the file
            picture.load()
            if turn != 1:
                ImageOps.exif_transpose(picture)
            values = np.unique(np.asarray(picture.convert("L"))).tolist() if is_mask else []
    except Exception as error:  # decoders raise anything on broken bytes
        raise ValueError(f"picture {name or ''} cannot be read: {error}") from error
    if set(values) - {0, 255}:
        raise ValueError(f"mask {name or ''} must be 0 or 255 everywhere, but has the values {values[:8]}")
    return size
