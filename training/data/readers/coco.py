"""Annotations in the format of COCO: masks of categories (COCO, LVIS), captions, referring expressions (RefCOCO)."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from PIL import Image, ImageOps

from .. import schema
from .bad_rows import OnError, Report
from .files import check_picture, find_picture, read_json
from .rows import to_row
from .segmentations import Segment, draw_mask, read_segments, segment_area
from .values import identifier, listed, quoted, text


@dataclass(frozen=True)
class _Region:
    """What a row asks for: the union of segments in a picture."""

    picture: str
    expression: str
    concept: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, eq=False)
class CocoMasks:
    """A map-style dataset (`len`, `[index]`) of rows of task "referring"; `load_coco` and `load_refcoco` make it. The
    picture of a row is read, and its mask drawn, when asked for."""

    regions: Sequence[_Region]

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: int) -> dict:
        """A row of `schema.FEATURES` with PIL pictures."""
        region = self.regions[index]
        with Image.open(region.picture) as file:
            picture = ImageOps.exif_transpose(file)
        return schema.row(
            "referring",
            images=[picture],
            messages=self.messages(index),
            masks=[Image.fromarray(draw_mask(region.segments, *picture.size).astype(np.uint8) * 255)],
            concepts=[region.concept],
        )

    def select(self, indices: Iterable[int]) -> "CocoMasks":
        """Some of the rows, in this order."""
        return CocoMasks([self.regions[index] for index in indices])

    def messages(self, index: int) -> list[dict]:
        """Those of a row, without reading its picture."""
        request = schema.text(f"Segment {self.regions[index].expression}.")
        return schema.exchange([schema.image(), request], [schema.mask()])

    def __iter__(self) -> Iterator[dict]:
        return map(self.__getitem__, range(len(self)))


def load_coco(
    annotations: str | Path, images: str | Path, *, min_area: float = 0.001, on_error: OnError = "raise"
) -> CocoMasks:
    """Loads masks such as those of `instances_train2017.json`: one row per picture and category in it, picture by
    picture, such as "Segment the dog." with the union of all dogs, crowds included.

    Every picture is read once to see that it is whole.

    Args:
        annotations: the JSON file. Segmentations are polygons or run lengths, plain or compressed.
        images: the folder of the pictures.
        min_area: a category that covers less than this fraction of a picture is left out; the default is about one
            patch of 14 pixels in a picture of 384.
        on_error: "raise" a ValueError that lists the first bad rows, or "skip" them with one warning that names them.

    Raises:
        ValueError: for a file that is not in this format, for bad rows as `on_error` says, if no row is left.
    """
    report = Report(str(annotations), on_error)
    coco = _Coco(annotations, images, report)
    names = coco.by_id("category", "categories", name=text)
    objects = coco.records("annotations", image_id=identifier, category_id=identifier)
    groups = defaultdict(list)  # (picture, category) -> its objects
    for index, record in objects.items():
        groups[record["image_id"], record["category_id"]].append(index)

    def region(image_id: int, category_id: int) -> _Region | None:
        name = _one_line(names[category_id]["name"])
        picture, area, segments = coco.segments(image_id, [objects[i] for i in groups[image_id, category_id]])
        return _Region(picture, f"the {name}", name, segments) if area >= min_area else None

    place = {image_id: position for position, image_id in enumerate(coco.pictures)}
    keys = sorted(groups, key=lambda key: place.get(key[0], len(place)))  # stable; unknown pictures are reported last
    return CocoMasks(_rows({groups[key][0]: partial(region, *key) for key in keys}, report))


def load_refcoco(
    refs: str | Path,
    annotations: str | Path,
    images: str | Path,
    split: str | None = None,
    on_error: OnError = "raise",
) -> CocoMasks:
    """Loads referring expressions (RefCOCO, RefCOCO+, RefCOCOg), one row per sentence: "Segment left woman in red.".

    Args:
        refs: a JSON list of `{"ann_id": int, "split": str, "sentences": [{"sent": str}, ...]}`. The releases have the
            same as a pickle, which can run code when it is read and is therefore not; write it out as JSON once.
        annotations: the JSON file of the objects, as for `load_coco`.
        images: the folder of the pictures.
        split: "train", "val", "testA", "testB" or "test", as the data set has them; all without it.
        on_error: as for `load_coco`.

    Raises:
        ValueError: as for `load_coco`.
    """
    report = Report(str(refs), on_error)
    coco = _Coco(annotations, images, report)
    names = coco.by_id("category", "categories", name=text)
    objects = coco.by_id("annotation", "annotations", image_id=identifier, category_id=identifier)

    def region(ann_id: int, sentence: str) -> _Region:
        expression = text(_one_line(sentence).rstrip("."), "the sentence")
        record = objects[ann_id]
        picture, _, segments = coco.segments(record["image_id"], [record])
        return _Region(picture, expression, _one_line(names[record["category_id"]]["name"]), segments)

    rows = {}
    entries = _entries(read_json(Path(refs), list), str(refs), report, ann_id=identifier, split=text, sentences=listed)
    for index, ref in entries.items():
        if split in (None, ref["split"]):
            sentences = _entries(ref["sentences"], f"{refs}, entry {index}, 'sentences'", report, sent=text)
            rows |= {(index, i): partial(region, ref["ann_id"], s["sent"]) for i, s in sentences.items()}
    return CocoMasks(_rows(rows, report))


def load_coco_captions(annotations: str | Path, images: str | Path, on_error: OnError = "raise") -> datasets.Dataset:
    """Loads captions such as those of `captions_train2017.json`, one row of task "caption" each.

    Arguments and errors as for `load_coco`.
    """
    report = Report(str(annotations), on_error)
    coco = _Coco(annotations, images, report)

    def row(image_id: int, caption: str) -> dict:
        return to_row({"image": coco.picture(image_id)[0], "caption": _one_line(caption)})

    records = coco.records("annotations", image_id=identifier, caption=text)
    rows = {index: partial(row, record["image_id"], record["caption"]) for index, record in records.items()}
    return datasets.Dataset.from_list(_rows(rows, report), features=schema.FEATURES)


class _Coco:
    """An annotation file with the folder of its pictures; its bad entries are reported."""

    def __init__(self, annotations: str | Path, images: str | Path, report: Report):
        self.file, self.folder, self.report = str(annotations), Path(images), report
        self.content = read_json(Path(annotations), dict)
        self.pictures = self.by_id("picture", "images", file_name=text)

    def records(self, key: str, **fields: Callable) -> dict[int, dict]:
        return _entries(self.content.get(key), f"{self.file}, {key!r}", self.report, **fields)

    def by_id(self, what: str, key: str, **fields: Callable) -> "_ById":
        return _ById(what, self.records(key, id=identifier, **fields).values())

    def picture(self, image_id: int) -> tuple[str, tuple[int, int]]:
        """Path and (width, height) of a picture that was read to its end."""
        record = self.pictures[image_id]
        path = find_picture(record["file_name"], self.folder)
        size = check_picture(path)
        noted = (record.get("width", size[0]), record.get("height", size[1]))
        if noted != size:
            raise ValueError(
                f"picture {path} has {size[0]}x{size[1]} pixels, the annotations say "
                f"{quoted(noted[0])}x{quoted(noted[1])}"
            )
        return path, size

    def segments(self, image_id: int, objects: list[dict]) -> tuple[str, float, tuple[Segment, ...]]:
        """Path of a picture; the area of some objects in it, overlaps twice, as a fraction of it; their segments."""
        path, (width, height) = self.picture(image_id)
        segments = tuple(
            segment for record in objects for segment in read_segments(record.get("segmentation"), width, height)
        )
        return path, sum(map(segment_area, segments)) / (width * height), segments


class _ById(dict):
    """Entries by their id. Asked for an id that none has, or several, it raises a ValueError."""

    def __init__(self, what: str, entries: Iterable[dict]):
        super().__init__()
        self.what, self.repeated = what, set()
        for entry in entries:
            if entry["id"] in self:
                self.repeated.add(entry["id"])
            self[entry["id"]] = entry

    def __getitem__(self, key: object) -> dict:
        if key in self.repeated:
            raise ValueError(f"more than one {self.what} has the id {quoted(key)}: which is meant?")
        return super().__getitem__(key)

    def __missing__(self, key: object) -> dict:
        raise ValueError(f"no {self.what} has the id {quoted(key)}")


def _entries(records: object, where: str, report: Report, **fields: Callable) -> dict[int, dict]:
    """The entries of a list, by their place in it, that are objects with these fields, as the check of each says."""

    def checked(record: object) -> dict:
        if not isinstance(record, dict) or not set(fields) <= set(record):
            raise ValueError(f"needed are the fields {', '.join(fields)}, not {quoted(record)}")
        for name, check in fields.items():
            check(record[name], name)
        return record

    entries = enumerate(listed(records, where))
    made = {i: report.attempt(f"{where}, entry {i}", partial(checked, record)) for i, record in entries}
    return {i: record for i, record in made.items() if record is not None}


def _rows(rows: dict[object, Callable[[], object]], report: Report) -> list:
    """What the values of `rows` make, less what is bad and what is None; the keys say where in the file they are."""
    made = [report.attempt(f"{report.source}, row {place}", make) for place, make in rows.items()]
    made = [row for row in made if row is not None]
    if rows and not made and not report.problems:
        raise ValueError(f"{report.source}: no row is left, all objects are too small")
    report.close(len(made))
    return made


def _one_line(value: str) -> str:
    return " ".join(value.split())
