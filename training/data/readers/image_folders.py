"""Folders of pictures, with a `data.json` that says more about them or without."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import datasets
from PIL import Image

from ..entries.bad_rows import OnError
from ..entries.entry import Entry, load_entries
from ..entries.files import find_picture, read_json
from ..entries.rows import Needs


def load_image_folder_json(
    root: str | Path, on_error: OnError = "raise", needs: Needs | None = None
) -> datasets.Dataset:
    """Loads `root/data.json` (a list of rows) with its pictures in `root/images/`, see `read_image_folder_json`.

    Every picture is read once to see that it is whole; the data set holds its path and decodes it when asked.

    Args:
        on_error: "raise" a ValueError that lists the first bad rows, or "skip" them with one warning that counts and
            names them.
        needs: what a row must have to be of use: an "answer" to learn (to train Setokim), one "picture" (SeTok).

    Raises:
        ValueError: what the reader refuses; bad rows as `on_error` says; if no row is left.
    """
    return load_entries(read_image_folder_json, str(Path(root) / "data.json"), on_error, needs, root=root)


def load_image_folder(root: str | Path, on_error: OnError = "raise") -> datasets.Dataset:
    """Loads all pictures under a folder (by file name ending, subfolders included, sorted) for reconstruction.

    Arguments and errors as for `load_image_folder_json`.
    """
    return load_entries(read_image_folder, str(root), on_error, root=root)


def read_image_folder_json(root: str | Path) -> Iterator[Entry]:
    """Reads the rows of `root/data.json`, which look as `rows.py` says.

    Args:
        root: the folder, such as `data/LLaVA`. Paths in the rows are relative to `root/images` or to `root`, and lead
            out of neither; `root` and `root/images` may themselves be links.

    Raises:
        ValueError: `data.json` is missing or no JSON list.
    """
    root = Path(root)
    file = root / "data.json"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; for a folder of pictures without data.json use load_image_folder")
    for number, raw in enumerate(read_json(file, list)):
        yield Entry(f"{file}, row {number}", lambda raw=raw: raw, partial(_find, root))


def read_image_folder(root: str | Path) -> Iterator[Entry]:
    """Reads all pictures under a folder, as rows of task "reconstruction".

    Raises:
        ValueError: there is none.
    """
    root = Path(root)
    for number, file in enumerate(pictures_in(root)):
        yield Entry(
            f"{root / file}, row {number}", lambda file=file: {"image": file}, lambda file: find_picture(file, root)
        )


def _find(root: Path, path: object) -> str:
    return find_picture(path, root / "images", root)


def pictures_in(root: Path) -> list[str]:
    """Paths, relative to a folder, of the pictures in it and in its subfolders (by file name ending), sorted.

    Raises:
        ValueError: there is none.
    """
    endings = Image.registered_extensions()
    paths = [path for path in root.rglob("*") if path.suffix.lower() in endings and path.is_file()]
    if not paths:
        raise ValueError(f"{root} holds no pictures (files ending in .png, .jpg, ...)")
    return sorted(str(path.relative_to(root)) for path in paths)
