"""Entries of other people's files: each becomes a row of the one schema, or says what is wrong with it.

A reader is a function `(files and folders, ...) -> Iterator[Entry]`: it goes through its files without opening a
picture. `load_entries` makes a data set of all entries at once, with every picture looked at; `keep_entries` and
`as_stream` make a stream that looks at nothing before it is needed.
"""

import json
import os
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import datasets

from .. import schema
from .bad_rows import OnError, Report
from .files import check_picture
from .rows import Needs, to_row
from .segmentations import mask_picture
from .wording import Task

Item = TypeVar("Item")
SHARDS = 1024  # of a stream made from entries: as many workers of all processes together may share it


@dataclass(frozen=True)
class Entry:
    """One row of a file.

    Attributes:
        where: the file and the place in it, such as "captions.json, entry 17".
        make: gives the row as `to_row` takes it, its pictures as paths from `find_picture` or as bytes. Masks may be
            left out and told by `segments`, one list of COCO segmentations for each, and `segments_size`, the (width,
            height) of their picture, if the file says it. Raises a ValueError that says what is wrong.
        locate: from a picture of that row to one of these, if it has others, such as paths in a folder.
        task: see `to_row`.
    """

    where: str
    make: Callable[[], dict]
    locate: Callable[[object], object] = lambda picture: picture
    task: Task | None = None

    def row(self, needs: Needs | None, look: bool) -> dict:
        """A row of `schema.FEATURES`, or, if `look` is False, of `schema.LAZY_FEATURES`; a ValueError for a bad one."""
        raw = self.make()
        row = to_row(raw, self.locate, needs, look, self.task)
        segments, size = raw.get("segments"), raw.get("segments_size")
        if not look:
            told = segments and json.dumps({"size": size, "masks": segments})
            return {**row, "segments": told, "origin": self.where, "problem": None}
        if segments:
            found = check_picture(row["images"][0])
            row["masks"] = [mask_picture(segmentations, found, size) for segmentations in segments]
        return row

    def lazy_row(self, needs: Needs | None) -> dict:
        """A row of `schema.LAZY_FEATURES`: a bad one has its `origin` and its `problem` alone."""
        try:
            return self.row(needs, look=False)
        except ValueError as error:
            return {**schema.row(""), "segments": None, "origin": self.where, "problem": str(error)}


Reader = Callable[..., Iterator[Entry]]


def load_entries(
    reader: Reader,
    source: str,
    on_error: OnError = "raise",
    needs: Needs | None = None,
    only: Container[int] | None = None,
    **arguments,
) -> datasets.Dataset:
    """All rows of a reader, checked, with every picture read once to see that it is whole.

    Args:
        reader, arguments: what is read.
        source: what it is called in errors.
        on_error: "raise" a ValueError that lists the first bad rows, or "skip" them with one warning that names them.
        needs: see `to_row`.
        only: the numbers of the entries to load, good or bad; by default all.

    Raises:
        ValueError: what the reader refuses, bad rows as `on_error` says, no row left.
    """
    report = Report(source, on_error)
    entries = chosen(reader(**arguments), only)
    made = [report.attempt(entry.where, partial(entry.row, needs, look=True)) for entry in entries]
    rows = [row for row in made if row is not None]
    report.close(len(rows))
    return datasets.Dataset.from_list(rows, features=schema.FEATURES)


def chosen(items: Iterable[Item], only: Container[int] | None) -> Iterator[Item]:
    """Those of these numbers; by default all."""
    return (item for number, item in enumerate(items) if only is None or number in only)


def as_stream(kept: datasets.Dataset) -> datasets.IterableDataset:
    """The rows of `keep_entries`, or some of them, as a stream: they are read where they are needed."""
    return kept.to_iterable_dataset(num_shards=min(SHARDS, len(kept)))


def keep_entries(reader: Reader, needs: Needs | None = None, **arguments) -> datasets.Dataset:
    """The rows of a reader as `schema.LAZY_FEATURES`, unopened, on disk.

    The first time, the entries are written to the cache of `datasets`, by one process, without opening a picture; from
    then on, as long as no file changes, they are read from there where they are needed. (Of folders it is seen where
    files come and go in them and in the folders in them; deeper changes need another cache, `HF_DATASETS_CACHE`.)

    Raises:
        ValueError: what the reader refuses, and if there is no entry.
    """
    files = {name: _state(value) for name, value in arguments.items()}
    try:
        kept = datasets.Dataset.from_generator(
            _lazy_rows,
            features=schema.LAZY_FEATURES,
            gen_kwargs={"reader": reader, "needs": needs, "arguments": arguments, "files": files},
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):  # the reader's
            raise error.__cause__ from None
        raise
    if not len(kept):
        raise ValueError(f"there are no rows in {arguments}")
    return kept


def _lazy_rows(reader: Reader, needs: Needs | None, arguments: dict, files: dict) -> Iterator[dict]:
    """`files` is there for the cache of `datasets`, which asks whether arguments have changed, and not files."""
    for entry in reader(**arguments):
        yield entry.lazy_row(needs)


def _state(value: object) -> list | None:
    """Sizes and times of what may be a file, or a folder and those in it, or several: they tell of most changes."""
    if isinstance(value, list | tuple):
        return [_state(one) for one in value]
    if not isinstance(value, str | Path) or not os.path.exists(value):
        return None
    inside = [entry.path for entry in os.scandir(value) if entry.is_dir()] if os.path.isdir(value) else []
    paths = [value, Path(value, "data.json"), *sorted(inside)]
    return [(state.st_size, state.st_mtime_ns) for state in map(os.stat, filter(os.path.exists, paths))]
