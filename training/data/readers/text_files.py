"""Plain text: a folder of files, each a document."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..entries.entry import Entry


def read_text_files(folder: str | Path) -> Iterator[Entry]:
    """Reads all `.txt` files under a folder (UTF-8), sorted, one row of task "text_only" for each.

    Documents in JSON lines or Parquet, such as SlimPajama's, are read by `load_hub_dataset`.

    Raises:
        ValueError: there are no such files.
    """
    folder = Path(folder)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.txt") if path.is_file())
    if not files:
        raise ValueError(f"{folder} holds no text files (ending in .txt)")
    for file in files:
        yield Entry(file, partial(_row, file, folder))


def _row(file: str, folder: Path) -> dict:
    path = folder / file
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ValueError(f"{file} leads out of the folder, to {os.path.realpath(path)}: copy it into the folder")
    try:
        return {"text": path.read_text(encoding="utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as text: {error}") from error
