"""Annotations in the format of COCO: masks of categories (COCO, LVIS), captions, referring expressions (RefCOCO)."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from PIL import Image, ImageOps

from .. import schema
from .bad_rows import OnError, Report
from .files import check_picture, read_json
from .rows import to_row
from .segmentations import Segment, draw_mask, read_segments, segment_area


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
        request = schema.text(f"Segment {region.expression}.")
        return schema.row(
            "referring",
            images=[picture],
            messages=schema.exchange([schema.image(), request], [schema.mask()]),
            masks=[Image.fromarray(draw_mask(region.segments, *picture.size).astype(np.uint8) * 255)],
            concepts=[region.concept],
        )

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
    coco = _Coco(annotations, images)
    names = {category["id"]: category["name"] for category in coco.records("categories", "id", "name")}
    objects = coco.records("annotations", "image_id", "category_id")
    groups = defaultdict(list)  # (picture, category) -> its objects
    for index, record in enumerate(objects):
        groups[record["image_id"], record["category_id"]].append(index)

    def region(image_id: int, category_id: int) -> _Region | None:
        name = _name(names, category_id)
        picture, area, segments = coco.segments(image_id, [objects[i] for i in groups[image_id, category_id]])
        return _Region(picture, f"the {name}", name, segments) if area >= min_area else None

    place = {image_id: position for position, image_id in enumerate(coco.pictures)}
    keys = sorted(groups, key=lambda key: place.get(key[0], len(place)))  # stable; unknown pictures are reported last
    return CocoMasks(_attempt(coco.file, {groups[key][0]: partial(region, *key) for key in keys}, on_error))


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
    coco = _Coco(annotations, images)
    names = {category["id"]: category["name"] for category in coco.records("categories", "id", "name")}
    objects = {record["id"]: record for record in coco.records("annotations", "id", "image_id", "category_id")}

    def region(ann_id: int, sentence: object) -> _Region:
        if ann_id not in objects:
            raise ValueError(f"no annotation has the id {ann_id!r}")
        record = objects[ann_id]
        picture, _, segments = coco.segments(record["image_id"], [record])
        return _Region(picture, _text(sentence).rstrip("."), _name(names, record["category_id"]), segments)

    rows = {}
    for index, ref in enumerate(_checked(read_json(Path(refs), list), str(refs), "ann_id", "split", "sentences")):
        if split in (None, ref["split"]):
            sentences = _checked(ref["sentences"], f"{refs}, entry {index}, 'sentences'", "sent")
            rows |= {(index, i): partial(region, ref["ann_id"], s["sent"]) for i, s in enumerate(sentences)}
    return CocoMasks(_attempt(str(refs), rows, on_error))


def load_coco_captions(annotations: str | Path, images: str | Path, on_error: OnError = "raise") -> datasets.Dataset:
    """Loads captions such as those of `captions_train2017.json`, one row of task "caption" each.

    Arguments and errors as for `load_coco`.
    """
    coco = _Coco(annotations, images)

    def row(image_id: int, caption: object) -> dict:
        return to_row({"image": coco.picture(image_id)[0], "caption": _text(caption)})

    records = coco.records("annotations", "image_id", "caption")
    rows = {index: partial(row, record["image_id"], record["caption"]) for index, record in enumerate(records)}
    return datasets.Dataset.from_list(_attempt(coco.file, rows, on_error), features=schema.FEATURES)


class _Coco:
    """An annotation file with the folder of its pictures."""

    def __init__(self, annotations: str | Path, images: str | Path):
        self.file, self.folder = str(annotations), Path(images)
        self.content = read_json(Path(annotations), dict)
        self.pictures = {record["id"]: record for record in self.records("images", "id", "file_name")}

    def records(self, key: str, *fields: str) -> list[dict]:
        return _checked(self.content.get(key), f"{self.file}, {key!r}", *fields)

    def picture(self, image_id: int) -> tuple[str, tuple[int, int]]:
        """Path and (width, height) of a picture that was read to its end."""
        if image_id not in self.pictures:
            raise ValueError(f"no picture has the id {image_id!r}")
        record = self.pictures[image_id]
        path = str(self.folder / record["file_name"])
        size = check_picture(path)
        noted = (record.get("width", size[0]), record.get("height", size[1]))
        if noted != size:
            raise ValueError(
                f"picture {path} has {size[0]}x{size[1]} pixels, the annotations say {noted[0]}x{noted[1]}"
            )
        return path, size

    def segments(self, image_id: int, objects: list[dict]) -> tuple[str, float, tuple[Segment, ...]]:
        """Path of a picture; the area of some objects in it, overlaps twice, as a fraction of it; their segments."""
        path, (width, height) = self.picture(image_id)
        segments = tuple(
            segment for record in objects for segment in read_segments(record.get("segmentation"), width, height)
        )
        return path, sum(map(segment_area, segments)) / (width * height), segments


def _attempt(file: str, rows: dict[object, Callable[[], object]], on_error: OnError) -> list:
    """What the values of `rows` make, less what is bad and what is None; the keys say where in the file they are."""
    report = Report(on_error)
    made = [report.attempt(file, place, make) for place, make in rows.items()]
    report.close(len(made))
    made = [row for row in made if row is not None]
    if not made:
        raise ValueError(f"{file}: no row is left, all objects are too small")
    return made


def _text(value: object) -> str:
    """A text on one line."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a text is needed, not {value!r}")
    return " ".join(value.split())


def _name(names: dict[int, str], category_id: int) -> str:
    if category_id not in names:
        raise ValueError(f"no category has the id {category_id!r}")
    return names[category_id]


def _checked(records: object, where: str, *fields: str) -> list[dict]:
    """A list of objects that all have some fields."""
    if not isinstance(records, list):
        raise ValueError(f"{where} must be a list, not a {type(records).__name__}")
    for index, record in enumerate(records):
        if not isinstance(record, dict) or not set(fields) <= set(record):
            raise ValueError(f"{where}, entry {index} must have the fields {', '.join(fields)}: {str(record)[:200]}")
    return records
