"""Data sets of the Hub, and all else that `datasets.load_dataset` takes: Parquet, tar files, JSON lines, CSV, text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets

from .. import schema
from ..entries.bad_rows import OnError, Report
from ..entries.entry import Entry
from ..entries.files import find_picture
from ..entries.rows import Needs
from ..entries.wording import Task

_UNREADABLE = (datasets.exceptions.DatasetsError, OSError, ValueError)  # pyarrow's errors are among them


def load_hub_dataset(
    name: str,
    split: str,
    *,
    columns: dict[str, str] | None = None,
    task: Task | None = None,
    on_error: OnError = "raise",
    needs: Needs | None = None,
    **kwargs,
) -> datasets.Dataset:
    """Loads a data set by Hub id, or anything else that `datasets.load_dataset` takes, in the one schema.

    Args:
        name, split: as for `datasets.load_dataset`.
        columns: our key -> the data set's column, where they differ, such as `{"image": "jpg", "caption": "txt"}`.
            Class labels become their names.
        task: of all rows, such as "text_to_image" for pictures with captions, see `to_row`.
        on_error, needs: as for `load_image_folder_json`.
        **kwargs: passed to `datasets.load_dataset`.

    A picture is bytes, or a file that `datasets` found itself; a path that a row names must lie in the folder of the
    data, if they have one here.

    Raises:
        ValueError: for what `load_dataset` cannot read, a column of `columns` that does not exist, and bad rows.
    """
    dataset = _open(name, split, **kwargs)
    reading = _Reading(name, split, columns or {}, task, str(_folder(name, **kwargs) or ""))
    dataset, to_entry = reading.prepare(dataset, name)
    report = Report(f"{name} ({split})", on_error)

    def convert(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        rows = []
        for place, index in enumerate(indices):
            raw = {column: values[place] for column, values in batch.items()}
            entry = to_entry(raw, f"{report.source}, row {index}")
            rows.append(report.attempt(entry.where, lambda entry=entry: entry.row(needs, look=True)))
        return {key: [row[key] for row in rows if row] for key in schema.FEATURES}

    # Not from the cache: bad rows are to be named every time.
    dataset = dataset.map(
        convert, with_indices=True, batched=True, remove_columns=list(dataset.features), features=schema.FEATURES,
        load_from_cache_file=False,
    )  # fmt: skip
    report.close(len(dataset))
    return dataset


def stream_hub_dataset(
    name: str,
    split: str,
    *,
    columns: dict[str, str] | None = None,
    task: Task | None = None,
    needs: Needs | None = None,
    **kwargs,
) -> datasets.IterableDataset:
    """The same as a stream of `schema.LAZY_FEATURES`: each file is read when its turn comes, and nothing is downloaded
    ahead. A file is a shard; one that cannot be read to its end ends with a row that says so.

    Raises:
        ValueError: for what has no such files (`datasets` lists folders of pictures, for example, one by one), and
            what cannot be found. Columns are looked at when the first file is read.
    """
    try:
        builder = datasets.load_dataset_builder(name, **kwargs)
    except _UNREADABLE as error:
        raise _unreadable(name, split, error) from error
    files = {str(key): list(value) for key, value in (builder.config.data_files or {}).items()}
    if builder.name.endswith("folder") or not files:
        raise ValueError(f"{name} cannot be streamed: needed are files of rows (Parquet, tar, JSON, CSV, text)")
    if split not in files:
        raise ValueError(f"{name} has no split {split!r}: choose one of {', '.join(files)}")
    options = {key: value for key, value in kwargs.items() if key not in ("data_files", "data_dir", "revision", "name")}
    return datasets.IterableDataset.from_generator(
        _rows_of_files,
        features=schema.LAZY_FEATURES,
        gen_kwargs={
            "files": files[split],
            "form": builder.name,
            "options": options,
            "reading": _Reading(name, split, columns or {}, task, str(_folder(name, **kwargs) or "")),
            "needs": needs,
        },
    )


@dataclass(frozen=True)
class _Reading:
    """How the rows of a data set are read."""

    name: str
    split: str
    columns: dict[str, str]
    task: Task | None
    folder: str  # of data that lie on this machine, or ""

    def prepare(self, dataset, name: str) -> tuple[datasets.Dataset | datasets.IterableDataset, Callable]:
        """The data set with its pictures undecoded, so that a broken one is ours to report, and a function from a raw
        row and where it is to its entry."""
        features = dataset.features
        if features is None:
            raise ValueError(f"the columns of {name} are not known in advance; pass features=... for load_dataset")
        if missing := sorted(set(self.columns.values()) - set(features)):
            raise ValueError(f"{name} has no column {', '.join(missing)}; it has {', '.join(features)}")
        columns = {key: key for key in features if key not in self.columns.values()} | self.columns
        names = {key: _class_names(features[column]) for key, column in columns.items()}
        for key, feature in features.items():
            if isinstance(feature, datasets.Image):
                dataset = dataset.cast_column(key, datasets.Image(decode=False))
            elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
                dataset = dataset.cast_column(key, datasets.List(datasets.Image(decode=False)))
        folder = Path(self.folder) if self.folder else None
        locate = partial(_locate, folder=folder, found=_finds_pictures(dataset))

        def to_entry(raw: dict, where: str) -> Entry:
            return Entry(
                where,
                lambda: {key: _named(raw[column], names[key]) for key, column in columns.items()},
                locate,
                self.task,
            )

        return dataset, to_entry


def _rows_of_files(
    files: list[str], form: str, options: dict, reading: _Reading, needs: Needs | None
) -> Iterator[dict]:
    for file in files:
        number = 0
        try:
            rows, to_entry = reading.prepare(
                _open(form, "train", data_files={"train": [file]}, streaming=True, **options), file
            )
            for raw in _each(rows):
                key = f" ({raw['__key__']})" if "__key__" in raw else ""  # of a tar file's members
                yield to_entry(raw, f"{file}, row {number}{key}").lazy_row(needs)
                number += 1
        except _UNREADABLE as error:

            def fail(error=error):
                raise ValueError(f"the file cannot be read further: {error}")

            yield Entry(f"{file}, row {number}", fail).lazy_row(needs)


def _each(rows: datasets.IterableDataset) -> Iterator[dict]:
    """All rows: a worker of a `DataLoader` that asked the data set itself would get its share of the file."""
    for block in rows.iter(batch_size=16):
        for values in zip(*block.values(), strict=True):
            yield dict(zip(block, values, strict=True))


def _open(name: str, split: str, **kwargs) -> datasets.Dataset | datasets.IterableDataset:
    try:
        return datasets.load_dataset(name, split=split, **kwargs)
    except _UNREADABLE as error:  # of which few name the file
        raise _unreadable(name, split, error) from error


def _unreadable(name: str, split: str, error: Exception) -> ValueError:
    return ValueError(f"the data set {name} ({split}) cannot be read: {error} {error.__cause__ or ''}")


def _folder(name: str, data_dir: str | None = None, data_files: object = None, **_) -> Path | None:
    """The folder of data that lie on this machine, as far as the arguments of `load_dataset` tell."""
    for place in (data_dir, name):
        if place is not None and Path(place).is_dir():
            return Path(place)
    if isinstance(data_files, str) and Path(data_files).is_file():
        return Path(data_files).parent
    return None


def _finds_pictures(dataset: datasets.Dataset | datasets.IterableDataset) -> bool:
    """Whether the pictures are files that `datasets` looked for, not paths that somebody wrote into a table."""
    return (dataset.info.builder_name or "").endswith(("folder", "webdataset"))


def _locate(picture: object, folder: Path | None, found: bool) -> object:
    """A picture as a row has it, if it may be read."""
    path = picture.get("path") if isinstance(picture, dict) and picture.get("bytes") is None else picture
    if not isinstance(path, str) or (found and folder is None):
        return picture
    if folder is None:
        raise ValueError(
            f"the picture is the path {path!r}, not bytes; load_image_folder_json reads folders with paths"
        )
    return find_picture(path, folder)


def _class_names(feature: object) -> list[str] | None:
    """The names behind a column of class labels, one or a list per row."""
    inner = feature.feature if isinstance(feature, datasets.List) else feature
    return inner.names if isinstance(inner, datasets.ClassLabel) else None


def _named(value: object, names: list[str] | None) -> object:
    """Class numbers as names; other values as they are."""
    if isinstance(value, list):
        return [_named(label, names) for label in value]
    if names is None or value is None:
        return value
    return names[value] if value >= 0 else None  # -1: a row without a label
