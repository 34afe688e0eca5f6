"""Pictures with their captions in text files beside them, as img2dataset writes CC3M, CC12M and LAION to a folder."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from ..entries.entry import Entry
from ..entries.files import find_picture
from ..entries.values import quoted
from .image_folders import pictures_in

CaptionTask = Literal["caption", "text_to_image"]


def read_captioned_folder(folder: str | Path, task: CaptionTask = "caption") -> Iterator[Entry]:
    """Reads all pictures under a folder, sorted, each with its caption: `00000/000000012.jpg` with
    `00000/000000012.txt`. Other files, such as img2dataset's `00000/000000012.json` and `00000.parquet`, are not read.

    For more than a million pairs have img2dataset write tar files or Parquet, and read these with `load_hub_dataset`.

    Args:
        task: "caption" (the picture is described) or "text_to_image" (drawn as the caption says).

    Raises:
        ValueError: another task, no pictures in the folder.
    """
    if task not in get_args(CaptionTask):
        raise ValueError(f"task must be one of {', '.join(get_args(CaptionTask))}, not {quoted(task)}")
    for picture in pictures_in(Path(folder)):
        yield Entry(picture, partial(_row, picture, Path(folder), task))


def _row(picture: str, folder: Path, task: CaptionTask) -> dict:
    file = (folder / picture).with_suffix(".txt")
    try:
        caption = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the caption {file} cannot be read: {error}") from error
    return {"image": find_picture(picture, folder), "caption": caption.strip(), "task": task}
