"""Data sets of the Hub, and all else that `datasets.load_dataset` takes."""

from functools import partial
from pathlib import Path

import datasets

from .. import schema
from .bad_rows import OnError, Report
from .files import find_picture
from .rows import Needs, to_row


def load_hub_dataset(
    name: str,
    split: str,
    *,
    streaming: bool = False,
    columns: dict[str, str] | None = None,
    on_error: OnError = "raise",
    needs: Needs | None = None,
    **kwargs,
) -> datasets.Dataset | datasets.IterableDataset:
    """Loads a data set by Hub id, or anything else that `datasets.load_dataset` takes, in the one schema.

    Args:
        name, split: as for `datasets.load_dataset`.
        streaming: give an IterableDataset and download nothing ahead.
        columns: our key -> the data set's column, where they differ, such as `{"image": "jpg", "caption": "txt"}`.
            Class labels become their names.
        on_error: as for `load_image_folder_json`. A stream meets bad rows as it goes: it raises at the first batch
            that has some, or warns once for each such batch. What is wrong with its files `datasets` says as it goes.
        needs: as for `load_image_folder_json`.
        **kwargs: passed to `datasets.load_dataset`.

    A picture is bytes, or a file that `datasets` found itself; a path that a row names must lie in the folder of the
    data, if they have one here.

    Raises:
        ValueError: for what `load_dataset` cannot read, a column of `columns` that does not exist, and bad rows.
    """
    try:
        dataset = datasets.load_dataset(name, split=split, streaming=streaming, **kwargs)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:  # of which few name the file
        raise ValueError(f"the data set {name} ({split}) cannot be read: {error} {error.__cause__ or ''}") from error
    if dataset.features is None:
        raise ValueError(f"the columns of {name} are not known in advance; pass features=... for load_dataset")
    columns = columns or {}
    if missing := sorted(set(columns.values()) - set(dataset.features)):
        raise ValueError(f"{name} has no column {', '.join(missing)}; it has {', '.join(dataset.features)}")
    columns = {key: key for key in dataset.features if key not in columns.values()} | columns
    label_names = {key: _class_names(dataset.features[column]) for key, column in columns.items()}
    for key, feature in dataset.features.items():  # undecoded, so that a broken picture is ours to report
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(key, datasets.Image(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            dataset = dataset.cast_column(key, datasets.List(datasets.Image(decode=False)))

    locate = partial(_locate, folder=_folder(name, **kwargs), found=_finds_pictures(dataset))
    source = f"{name} ({split})"
    total = Report(source, on_error)

    def convert(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        report = Report(source, on_error) if streaming else total
        rows = []
        for position, index in enumerate(indices):
            raw = {key: _named(batch[column][position], label_names[key]) for key, column in columns.items()}
            rows.append(report.attempt(f"{source}, row {index}", lambda raw=raw: to_row(raw, locate, needs)))
        if streaming:
            report.close()
        return {key: [row[key] for row in rows if row] for key in schema.FEATURES}

    arguments = {"with_indices": True, "batched": True, "remove_columns": list(dataset.features)}
    if streaming:
        return dataset.map(convert, **arguments).cast(schema.FEATURES)  # the cast has the pictures decoded
    # Not from the cache: bad rows are to be named every time.
    dataset = dataset.map(convert, features=schema.FEATURES, load_from_cache_file=False, **arguments)
    total.close(len(dataset))
    return dataset


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
