"""Folders of pictures, with a `data.json` that says more about them or without."""

from pathlib import Path

import datasets
from PIL import Image

from .. import schema
from .bad_rows import OnError, Report
from .files import read_json
from .rows import to_row


def load_image_folder_json(root: str | Path, on_error: OnError = "raise") -> datasets.Dataset:
    """Loads `root/data.json` (a list of rows) with its pictures in `root/images/`.

    Every picture is read once to see that it is whole; the data set holds its path and decodes it when asked.

    Args:
        root: the folder, such as `data/LLaVA`. Paths in the rows are relative to `root/images` or to `root`.
        on_error: "raise" a ValueError that lists the first bad rows, or "skip" them with one warning that counts and
            names them.

    Raises:
        ValueError: if `data.json` is missing or no JSON list, for bad rows as `on_error` says, if no row is left.
    """
    root = Path(root)
    file = root / "data.json"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; for a folder of pictures without data.json use load_image_folder")
    raw_rows = read_json(file, list)

    def locate(path: object) -> str:
        if not isinstance(path, str):
            raise ValueError(f"a picture must be given as a path, not as {path!r}")
        for candidate in (root / "images" / path, root / path):
            if candidate.is_file():
                return str(candidate)
        raise ValueError(f"picture {path!r} exists neither in {root / 'images'} nor in {root}")

    report = Report(on_error)
    rows = [report.attempt(str(file), i, lambda raw=raw: to_row(raw, locate)) for i, raw in enumerate(raw_rows)]
    report.close(len(rows))
    return datasets.Dataset.from_list([row for row in rows if row], features=schema.FEATURES)


def load_image_folder(root: str | Path, on_error: OnError = "raise") -> datasets.Dataset:
    """Loads all pictures under a folder (by file name ending, subfolders included, sorted) for reconstruction.

    Arguments and errors as for `load_image_folder_json`.
    """
    endings = Image.registered_extensions()
    files = sorted(str(path) for path in Path(root).rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not files:
        raise ValueError(f"{root} holds no pictures (files ending in .png, .jpg, ...)")
    report = Report(on_error)
    rows = [report.attempt(file, i, lambda file=file: to_row({"image": file})) for i, file in enumerate(files)]
    report.close(len(rows))
    return datasets.Dataset.from_list([row for row in rows if row], features=schema.FEATURES)
