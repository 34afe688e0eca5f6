"""The files that a part of a recipe names, and which of them are there."""

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_type_hints

from training.data.sources import READERS, dataset_and_options


@dataclass(frozen=True)
class NamedFile:
    """A file, a folder, or a pattern of files that a recipe names, and what there is of it."""

    name: str
    found: list[str]


def named_files(part: dict) -> list[NamedFile]:
    """Those on this machine: of a data set of the Hub there are none."""
    dataset, options = dataset_and_options(part)
    reader, folder = READERS.get(dataset), Path()
    if reader is not None:
        hints = get_type_hints(reader)
        keys = [key for key in options if Path in get_args(hints.get(key))]
    elif Path(dataset).is_dir() or "/" not in dataset:  # else of the Hub
        keys = [key for key in options if key in ("data_files", "data_dir")]
        folder = Path(dataset) if Path(dataset).is_dir() else folder
    else:
        keys = []
    return [find_file(path, folder) for key in keys for path in _paths(options[key]) if "://" not in path]


def find_file(name: str, folder: Path = Path()) -> NamedFile:
    path = os.path.join(folder, name)
    if os.path.exists(path):
        return NamedFile(name, [path])
    return NamedFile(name, sorted(glob.glob(path, recursive=True)))


def _paths(value: object) -> list[str]:
    """The paths in a value: itself, or those of a list or a mapping."""
    if isinstance(value, dict):
        value = list(value.values())
    return [path for one in value for path in _paths(one)] if isinstance(value, list | tuple) else [str(value)]
