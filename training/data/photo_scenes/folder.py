"""The folder that `fetch.py` wrote: names, cut-outs and grounds by split."""

import json
from functools import lru_cache
from pathlib import Path

from PIL import Image

from ..emoji_scenes.scenes import SPLITS

FOLDER = "build/photo-scenes"
INDEX = "index.json"
COMMAND = "python -m training.data.photo_scenes.fetch"


def photo_concept_names(split: str | None = None, folder: str = FOLDER) -> tuple[str, ...]:
    """The object names of a split, or of all, sorted. No name is in two splits.

    Raises:
        FileNotFoundError: the folder is not there yet.
        ValueError: it is damaged, or the split is unknown.
    """
    if split not in (None, *SPLITS):
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}, or None for all")
    return tuple(sorted(name for each in SPLITS if split in (None, each) for name in cutout_files(each, folder)))


def cutout_files(split: str, folder: str) -> dict[str, list[str]]:
    """Name -> the files of its cut-outs below the folder; names in order."""
    files = {}
    for entry in _read_index(folder)["cutouts"]:
        if entry["split"] == split:
            files.setdefault(entry["name"], []).append(entry["file"])
    return dict(sorted(files.items()))


def ground_files(split: str, folder: str) -> dict[str, str]:
    """Name -> file of each ground below the folder; names in order."""
    return dict(sorted((e["name"], e["file"]) for e in _read_index(folder)["grounds"] if e["split"] == split))


@lru_cache(maxsize=512)
def read_picture(folder: str, file: str, mode: str) -> Image.Image:
    """A picture of the folder in a mode of Pillow; it is kept in memory, so do not change it."""
    try:
        with Image.open(Path(folder) / file) as opened:
            return opened.convert(mode)
    except OSError as error:
        raise ValueError(
            f"{folder} lacks {file}, or it is damaged ({error}): run {COMMAND} --output {folder} again."
        ) from error


@lru_cache(maxsize=8)
def _read_index(folder: str) -> dict:
    path = Path(folder) / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}: PhotoScenes are drawn from pictures that you fetch once: run "
            f"{COMMAND} --output {folder}"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        for kind, keys in (("cutouts", {"name", "split", "file"}), ("grounds", {"name", "split", "file"})):
            if not all(keys <= entry.keys() and entry["split"] in SPLITS for entry in index[kind]):
                raise ValueError(f"an entry of {kind} lacks one of {', '.join(sorted(keys))}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): run {COMMAND} --output {folder} again.") from error
    return index
