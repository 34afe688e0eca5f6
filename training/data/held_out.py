"""Rows that training leaves out, so that a model can be measured on them."""

import hashlib

import datasets

from .readers import CocoMasks

StoredRows = datasets.Dataset | CocoMasks


def split_off(rows: StoredRows, count: int) -> tuple[StoredRows, StoredRows]:
    """The rows to train on, and those held out, see `divide`.

    Raises:
        ValueError: rows that are drawn or streamed, and what `divide` refuses.
    """
    if not isinstance(rows, StoredRows):
        raise ValueError("held_out is of rows in files: scenes that are drawn have splits, and a stream has no first.")
    kept, held_out = divide(rows, count)
    return rows.select(kept), rows.select(held_out)


def divide(rows: StoredRows, count: int) -> tuple[list[int], list[int]]:
    """The numbers of the rows to train on, and of those held out: the first `count`, and all others about a picture of
    theirs.

    Raises:
        ValueError: a number below 1, or no row left to train on.
    """
    if type(count) is not int or count < 1:
        raise ValueError(f"held_out must be a number of rows, 1 or more, got {count!r}.")
    pictures = picture_keys(rows)
    seen = {key for keys in pictures[:count] for key in keys}
    is_held_out = [index < count or not seen.isdisjoint(keys) for index, keys in enumerate(pictures)]
    if all(is_held_out):
        raise ValueError(
            f"held_out: {count} leaves none of the {len(rows)} rows to train on; rows about one picture go together."
        )
    kept, held_out = ([i for i, is_out in enumerate(is_held_out) if is_out == wanted] for wanted in (False, True))
    return kept, held_out


def picture_keys(rows: StoredRows) -> list[tuple[str, ...]]:
    """Of each row what its pictures are known by: the same for the same file, or for the same bytes."""
    if isinstance(rows, CocoMasks):
        return [(region.picture,) for region in rows.regions]
    encoded = rows.select_columns("images").cast_column("images", datasets.List(datasets.Image(decode=False)))
    return [tuple(map(_key, row["images"])) for row in encoded]


def _key(picture: dict) -> str:
    return picture["path"] if picture["bytes"] is None else hashlib.sha256(picture["bytes"]).hexdigest()
