"""Data of other kinds in the one schema: folders with a `data.json`, folders of pictures, data sets of the Hub.

Rows may look like this (further keys are ignored):

- LLaVA: `{"image": "a.jpg" | ["a.jpg", ...], "conversations": [{"from": "human" | "gpt" | "system", "value": "..."}]}`,
  with `<image>` in the text where each picture belongs; no picture for text only;
- our own schema: `{"images": [...], "messages": [...], "masks": [...], "concepts": [...]}` (`schema.FEATURES`);
- `{"image": ..., "caption": "..."}`, `{"image": ..., "concepts" (or "labels"): ["...", ...]}`, `{"image": ...}`.

A row that is not so, or whose pictures cannot be read, is named with file, row and reason, and refused or skipped as
the caller says.
"""

import io
import json
import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
from PIL import ExifTags, Image

from .. import schema

PLACEHOLDER = "<image>"
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
_SHOWN = 10  # problems spelled out in an error

OnError = Literal["raise", "skip"]


def load_image_folder_json(root: str | Path, on_error: OnError = "raise") -> datasets.Dataset:
    """Loads `root/data.json` (a list of rows) with its pictures in `root/images/`.

    Every picture is read once to see that it is whole; the data set holds its path and decodes it when asked.

    Args:
        root: the folder, such as `data/LLaVA`. Paths in the rows are relative to `root/images` or to `root`.
        on_error: "raise" a ValueError that lists the first bad rows, or "skip" them with one warning that counts and
            names them.

    Raises:
        ValueError: if `data.json` is missing or no JSON list, for bad rows as `on_error` says, if no row is left.
    """
    root = Path(root)
    file = root / "data.json"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; for a folder of pictures without data.json use load_image_folder")
    raw_rows = read_json(file, list)

    def locate(path: object) -> str:
        if not isinstance(path, str):
            raise ValueError(f"a picture must be given as a path, not as {path!r}")
        for candidate in (root / "images" / path, root / path):
            if candidate.is_file():
                return str(candidate)
        raise ValueError(f"picture {path!r} exists neither in {root / 'images'} nor in {root}")

    report = Report(on_error)
    rows = [report.attempt(str(file), i, lambda raw=raw: to_row(raw, locate)) for i, raw in enumerate(raw_rows)]
    report.close(len(rows))
    return datasets.Dataset.from_list([row for row in rows if row], features=schema.FEATURES)


def load_image_folder(root: str | Path, on_error: OnError = "raise") -> datasets.Dataset:
    """Loads all pictures under a folder (by file name ending, subfolders included, sorted) for reconstruction.

    Arguments and errors as for `load_image_folder_json`.
    """
    endings = Image.registered_extensions()
    files = sorted(str(path) for path in Path(root).rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not files:
        raise ValueError(f"{root} holds no pictures (files ending in .png, .jpg, ...)")
    report = Report(on_error)
    rows = [report.attempt(file, i, lambda file=file: to_row({"image": file})) for i, file in enumerate(files)]
    report.close(len(rows))
    return datasets.Dataset.from_list([row for row in rows if row], features=schema.FEATURES)


def load_hub_dataset(
    name: str,
    split: str,
    *,
    streaming: bool = False,
    columns: dict[str, str] | None = None,
    on_error: OnError = "raise",
    **kwargs,
) -> datasets.Dataset | datasets.IterableDataset:
    """Loads a data set by Hub id, or anything else that `datasets.load_dataset` takes, in the one schema.

    Args:
        name, split: as for `datasets.load_dataset`.
        streaming: give an IterableDataset and download nothing ahead.
        columns: our key -> the data set's column, where they differ, such as `{"image": "jpg", "caption": "txt"}`.
            Class labels become their names.
        on_error: as for `load_image_folder_json`. A stream meets bad rows as it goes: it raises at the first batch
            that has some, or warns once for each such batch.
        **kwargs: passed to `datasets.load_dataset`.

    Raises:
        ValueError: if `columns` names a column that does not exist, and for bad rows.
    """
    dataset = datasets.load_dataset(name, split=split, streaming=streaming, **kwargs)
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

    total = Report(on_error)

    def convert(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        report = Report(on_error) if streaming else total
        rows = []
        for position, index in enumerate(indices):
            raw = {key: _named(batch[column][position], label_names[key]) for key, column in columns.items()}
            rows.append(report.attempt(f"{name} ({split})", index, lambda raw=raw: to_row(raw)))
        if streaming:
            report.close()
        return {key: [row[key] for row in rows if row] for key in schema.FEATURES}

    arguments = {"with_indices": True, "batched": True, "remove_columns": list(dataset.features)}
    if streaming:
        return dataset.map(convert, **arguments).cast(schema.FEATURES)  # the cast has the pictures decoded
    count = len(dataset)
    # Not from the cache: bad rows are to be named every time.
    dataset = dataset.map(convert, features=schema.FEATURES, load_from_cache_file=False, **arguments)
    total.close(count)
    return dataset


def read_json(file: Path, kind: type) -> list | dict:
    """What a JSON file holds, which must be a list or a dict, as `kind` says; else a ValueError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{file} must hold a {kind.__name__}, not a {type(content).__name__}")
    return content


def to_row(raw: dict, locate: Callable[[object], object] = lambda picture: picture) -> dict:
    """A row of any kind in the list above -> a row of `schema.FEATURES`.

    Args:
        raw: the row. Pictures are paths, `{"bytes": ..., "path": ...}` or PIL images.
        locate: from a picture as the row has it to one of these.

    Raises:
        ValueError: what is wrong with the row.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"a row must be an object with keys, not {raw!r}")
    raw = {key: value for key, value in raw.items() if value is not None}
    if not {"image", "images", "messages", "conversations"} & set(raw):
        raise ValueError(f"none of the keys image, images, messages, conversations; its keys: {', '.join(raw)}")
    images = [locate(picture) for picture in _as_list(raw.get("images", raw.get("image", [])))]
    masks = [locate(picture) for picture in _as_list(raw.get("masks", []))]
    sizes = [check_picture(picture) for picture in images]
    names = _as_list(raw.get("concepts", raw.get("labels", [])))
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"concepts must be names, not {names!r}")

    if raw.get("messages") or "conversations" in raw:
        messages, task = _messages(raw), "conversation"
    elif isinstance(raw.get("caption"), str):
        request = [schema.image(), schema.text("Describe the picture.")]
        messages, task = schema.exchange(request, [schema.text(raw["caption"])]), "caption"
    elif "caption" in raw:
        raise ValueError(f"the caption must be text, not {raw['caption']!r}")
    else:
        messages, task = [], "concepts" if names else "reconstruction"

    row = schema.row(
        raw["task"] if isinstance(raw.get("task"), str) else task,
        images=images,
        messages=messages,
        masks=masks,
        concepts=names,
        question_type=raw["question_type"] if isinstance(raw.get("question_type"), str) else None,
    )
    _check_row(row, sizes)
    return row


def _messages(raw: dict) -> list[dict]:
    """Structured messages from our own or from LLaVA's."""
    key, role_key, content_key = (
        ("messages", "role", "content") if raw.get("messages") else ("conversations", "from", "value")
    )
    turns = raw[key]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{key} must be a list of turns, not {turns!r}")
    messages = []
    for turn in turns:
        if turn.get(role_key) not in ROLES:
            raise ValueError(f"{role_key!r} of a turn must be one of {', '.join(ROLES)}, not {turn.get(role_key)!r}")
        content = turn.get(content_key)
        if isinstance(content, str):
            parts = _split_placeholders(content)
        elif isinstance(content, list) and all(map(_is_part, content)):
            parts = [{"type": part["type"], "text": part.get("text")} for part in content]
        else:
            raise ValueError(f"{content_key!r} of a turn must be text or a list of parts, not {content!r}")
        if not parts:
            raise ValueError("a turn is empty")
        messages.append({"role": ROLES[turn[role_key]], "content": parts})
    return messages


def _split_placeholders(value: str) -> list[dict]:
    """ "<image>\\nWhat is it?" -> an image part and a text part."""
    parts = []
    for i, piece in enumerate(value.split(PLACEHOLDER)):
        parts += [schema.image()] if i else []
        parts += [schema.text(piece.strip())] if piece.strip() else []
    return parts


def _is_part(part: object) -> bool:
    if not isinstance(part, dict) or part.get("type") not in ("text", "image", "mask"):
        return False
    return isinstance(part.get("text"), str) if part["type"] == "text" else part.get("text") is None


def _check_row(row: dict, sizes: list[tuple[int, int]]) -> None:
    """What the parts of a row must have to do with one another; `sizes` are those of its images."""
    parts = [part["type"] for turn in row["messages"] for part in turn["content"]]
    if row["messages"]:
        if parts.count("image") != len(row["images"]):
            raise ValueError(f"{len(row['images'])} pictures but {parts.count('image')} places for them in the text")
    elif len(row["images"]) != 1:
        raise ValueError(f"a row without a conversation must have one picture, not {len(row['images'])}")
    if row["masks"] and (row["concepts"] or not row["messages"]) and len(row["masks"]) != len(row["concepts"]):
        raise ValueError(f"{len(row['masks'])} masks but {len(row['concepts'])} concepts")
    if parts.count("mask") and parts.count("mask") != len(row["masks"]):
        raise ValueError(f"{len(row['masks'])} masks but {parts.count('mask')} places for them in the text")
    if row["masks"] and not sizes:
        raise ValueError("masks without a picture")
    for mask in row["masks"]:
        size = check_picture(mask, is_mask=True)
        if size != sizes[0]:
            raise ValueError(f"a mask has {size[0]}x{size[1]} pixels, its picture {sizes[0][0]}x{sizes[0][1]}")


def check_picture(picture: object, is_mask: bool = False) -> tuple[int, int]:
    """Reads a picture to its end; its (width, height)."""
    if isinstance(picture, Image.Image):
        return _read(picture, is_mask)
    if isinstance(picture, str):
        return _check_file(picture, is_mask)
    if isinstance(picture, dict) and picture.get("bytes") is not None:
        return _read(io.BytesIO(picture["bytes"]), is_mask, picture.get("path"))
    if isinstance(picture, dict) and isinstance(picture.get("path"), str):
        return _check_file(picture["path"], is_mask)
    raise ValueError(f"not a picture: {picture!r}")


def _check_file(path: str, is_mask: bool) -> tuple[int, int]:
    state = os.stat(path) if os.path.isfile(path) else None
    if state is None:
        raise ValueError(f"picture {path} does not exist")
    return _read_file(path, is_mask, state.st_mtime_ns)


@cache  # many rows ask about the same picture
def _read_file(path: str, is_mask: bool, modified: int) -> tuple[int, int]:
    return _read(path, is_mask, path)


def _read(source: object, is_mask: bool, name: str | None = None) -> tuple[int, int]:
    """Loads a path, a binary file or a PIL image; (width, height) as it will be shown."""
    try:
        with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as picture:
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # `datasets` turns such pictures upright
            size = picture.size[::-1] if turned else picture.size
            if picture is not source and not is_mask:
                picture.draft("RGB", (1, 1))  # lets the JPEG decoder skip most of its work, though not of the file
            picture.load()
            values = np.unique(np.asarray(picture.convert("L"))).tolist() if is_mask else []
    except Exception as error:  # decoders raise anything on broken bytes
        raise ValueError(f"picture {name or ''} cannot be read: {error}") from error
    if set(values) - {0, 255}:
        raise ValueError(f"mask {name or ''} must be 0 or 255 everywhere, but has the values {values[:8]}")
    return size


def _as_list(value: object) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]


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


class Report:
    """Collects what is wrong with rows and says it once, in the way that the caller chose."""

    def __init__(self, on_error: OnError):
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip", not {on_error!r}')
        self.on_error = on_error
        self.problems: list[str] = []

    def attempt(self, file: str, index: object, make: Callable[[], dict]) -> dict | None:
        """The row, or None if it is bad."""
        try:
            return make()
        except ValueError as error:
            self.problems.append(f"{file}, row {index}: {error}")
            return None

    def close(self, total: int | None = None) -> None:
        """Raises or warns if there were problems; raises if they leave none of `total` rows."""
        bad = len(self.problems)
        if bad:
            if self.on_error == "raise":
                first = "\n  ".join([*self.problems[:_SHOWN], *(["..."] if bad > _SHOWN else [])])
                raise ValueError(f'{bad} bad rows (on_error="skip" leaves them out):\n  {first}')
            warnings.warn("\n  ".join([f"skipped {bad} bad rows:", *self.problems]), stacklevel=3)
        if bad == total:
            raise ValueError("no rows" if not bad else "no row is left: all are bad (see the warning)")
