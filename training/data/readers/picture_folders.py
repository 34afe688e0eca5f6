"""What readers of pictures with names of classes have in common."""

from pathlib import Path
from typing import Literal, get_args

from ..entries.values import quoted

NamedTask = Literal["reconstruction", "concepts", "text_to_image"]
"""What is made of a picture and the names of what is in it: the picture alone, both, or a request to draw the names."""


def check_task(task: str) -> None:
    """Raises a ValueError if it is none of `NamedTask`."""
    if task not in get_args(NamedTask):
        raise ValueError(f"task must be one of {', '.join(get_args(NamedTask))}, not {quoted(task)}")


def as_folders(folders: str | Path | list[str | Path]) -> list[Path]:
    """One folder or several, which must exist, as a list; else a ValueError."""
    folders = [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ValueError(f"the folder {' and '.join(missing)}, to look for pictures in, does not exist")
    return folders
