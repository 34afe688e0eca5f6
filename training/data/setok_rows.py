"""The rows that a SeTok is trained on and measured on: one picture each, with the names of what it shows or without."""

from pathlib import Path

import datasets

from .entries.bad_rows import OnError
from .readers import load_hub_dataset, load_image_folder, load_image_folder_json


def load_setok_rows(dataset: str, split: str = "train", on_error: OnError = "raise") -> datasets.Dataset:
    """Rows of `schema.FEATURES` of a folder (`data.json` and `images/`, or pictures), or of this split of a data set of
    the Hub.

    Raises:
        ValueError: as the readers do.
    """
    root = Path(dataset)
    if (root / "data.json").is_file():
        return load_image_folder_json(root, on_error=on_error, needs="picture")
    if root.is_dir():
        return load_image_folder(root, on_error=on_error)
    return load_hub_dataset(dataset, split, on_error=on_error, needs="picture")


def setok_part(dataset: str) -> dict:
    """The part of a mixture that has the same rows."""
    root = Path(dataset)
    is_bare = root.is_dir() and not (root / "data.json").is_file()
    return {"dataset": "pictures", "root": dataset} if is_bare else {"dataset": dataset}
