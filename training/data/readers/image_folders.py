"""Folders of pictures, with a `data.json` that says more about them or without."""

from pathlib import Path

import datasets
from PIL import Image

from .. import schema
from .bad_rows import OnError, Report
from .files import find_picture, read_json
from .rows import Needs, to_row


def load_image_folder_json(
    root: str | Path, on_error: OnError = "raise", needs: Needs | None = None
) -> datasets.Dataset:
    """Loads `root/data.json` (a list of rows) with its pictures in `root/images/`.

    Every picture is read once to see that it is whole; the data set holds its path and decodes it when asked.

    Args:
        root: the folder, such as `data/LLaVA`. Paths in the rows are relative to `root/images` or to `root`, and lead
            out of neither; `root` and `root/images` may themselves be links.
        on_error: "raise" a ValueError that lists the first bad rows, or "skip" them with one warning that counts and
            names them.
        needs: what a row must have to be of use: an "answer" to learn (to train Setokim), one "picture" (SeTok).

    Raises:
        ValueError: if `data.json` is missing or no JSON list, for bad rows as `on_error` says, if no row is left.
    """
    root = Path(root)
    file = root / "data.json"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; for a folder of pictures without data.json use load_image_folder")
    raw_rows = read_json(file, list)

    def locate(path: object) -> str:
        return find_picture(path, root / "images", root)

    report = Report(str(file), on_error)
    rows = [
        report.attempt(f"{file}, row {i}", lambda raw=raw: to_row(raw, locate, needs)) for i, raw in enumerate(raw_rows)
    ]
    return _dataset(rows, report)


def load_image_folder(root: str | Path, on_error: OnError = "raise") -> datasets.Dataset:
    """Loads all pictures under a folder (by file name ending, subfolders included, sorted) for reconstruction.

    Arguments and errors as for `load_image_folder_json`.
    """
    root = Path(root)
    files = pictures_in(root)
    report = Report(str(root), on_error)
    rows = [
        report.attempt(f"{root / file!s}, row {i}", lambda file=file: to_row({"image": find_picture(file, root)}))
        for i, file in enumerate(files)
    ]
    return _dataset(rows, report)


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


def _dataset(rows: list[dict | None], report: Report) -> datasets.Dataset:
    """The good rows, after a word on the others."""
    rows = [row for row in rows if row is not None]
    report.close(len(rows))
    return datasets.Dataset.from_list(rows, features=schema.FEATURES)
