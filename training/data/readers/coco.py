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
from .loaders import OnError, Report, check_picture, read_json, to_row

Segment = np.ndarray
"""A polygon, (n, 2) float32 of x and y in pixels; or the runs of a mask, (n,) int64: how many 0s, 1s, 0s, ... follow
one another, column by column."""


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
            segment for record in objects for segment in _segments(record.get("segmentation"), width, height)
        )
        return path, sum(map(_area, segments)) / (width * height), segments


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


# --- segmentations ----------------------------------------------------------------------------------------------------


def draw_mask(segments: Sequence[Segment], width: int, height: int) -> np.ndarray:
    """(height, width) bool: the union of polygons and runs."""
    mask = np.zeros((height, width), bool)
    for segment in segments:
        mask |= _fill(segment, width, height) if segment.ndim == 2 else _unroll(segment, width, height)
    return mask


def _fill(polygon: Segment, width: int, height: int) -> np.ndarray:
    """The pixels whose centre lies inside a polygon: left of them its edges cross their row an odd number of times.

    PIL would also draw the edges, and so make small objects half as large again.
    """
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    y = np.arange(height)[:, None] + 0.5
    rows, edges = np.nonzero((y0 > y) != (y1 > y))
    x = x0[edges] + (rows + 0.5 - y0[edges]) * (x1 - x0)[edges] / (y1 - y0)[edges]
    crossings = np.zeros((height, width + 1), np.uint8)  # the last column takes those right of the picture
    np.add.at(crossings, (rows, np.ceil(x - 0.5).clip(0, width).astype(int)), 1)
    return (crossings.cumsum(1, dtype=np.uint8)[:, :width] & 1).astype(bool)  # sums over 255 wrap and stay odd or even


def _unroll(runs: Segment, width: int, height: int) -> np.ndarray:
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _area(segment: Segment) -> float:
    """In pixels."""
    if segment.ndim == 1:
        return float(segment[1::2].sum())
    (x0, y0), (x1, y1) = segment.T, np.roll(segment, -1, axis=0).T
    return float(abs((x0 * y1 - x1 * y0).sum())) / 2


def _segments(segmentation: object, width: int, height: int) -> list[Segment]:
    """The segments of an annotation, checked: `[[x, y, x, y, ...], ...]` or `{"size": [h, w], "counts": ...}`."""
    if isinstance(segmentation, dict):
        segments = [_runs(segmentation, width, height)]
    elif isinstance(segmentation, list) and segmentation:
        segments = [_polygon(numbers, width, height) for numbers in segmentation]
    else:
        raise ValueError(f"the segmentation must be polygons or run lengths, not {str(segmentation)[:80]!r}")
    if not any(map(_area, segments)):
        raise ValueError("the segmentation covers nothing")
    return segments


def _polygon(numbers: object, width: int, height: int) -> Segment:
    if not isinstance(numbers, list) or len(numbers) < 6 or len(numbers) % 2 or not _all_are(numbers, (int, float)):
        raise ValueError(f"a polygon must be x, y of three points or more, not {str(numbers)[:80]}")
    polygon = np.array(numbers, np.float32).reshape(-1, 2)
    if not ((polygon.max(0) > 0) & (polygon.min(0) < (width, height)) & np.isfinite(polygon).all(0)).all():
        raise ValueError(f"a polygon lies outside the picture of {width}x{height} pixels: {str(numbers)[:80]}")
    return polygon


def _runs(rle: dict, width: int, height: int) -> Segment:
    counts = rle.get("counts")
    if isinstance(counts, str):
        counts = _decompress(counts)
    if not isinstance(counts, list) or not _all_are(counts, int) or min(counts, default=-1) < 0:
        raise ValueError(f"run lengths must be a list or a string of integers of at least 0, not {str(counts)[:80]}")
    if rle.get("size") != [height, width] or sum(counts) != width * height:
        raise ValueError(
            f"the run lengths are of a mask of (height, width) {rle.get('size')} and sum to {sum(counts)}; the picture "
            f"has {[height, width]}, {width * height} pixels"
        )
    return np.array(counts, np.int64)


def _decompress(text: str) -> list[int]:
    """COCO's compressed run lengths: of each number groups of 5 bits, the lowest first, each as a character from "0" on
    with bit 5 for "more follows"; bit 4 of the last is the sign. From the fourth number on it is the difference to the
    number two before."""
    counts, value, shift = [], 0, 0
    for code in text.encode():
        group = code - ord("0")
        if not 0 <= group < 64:
            raise ValueError(f"compressed run lengths hold the character {chr(code)!r}")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (1 << shift) if group & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the compressed run lengths end within a number")
    return counts


def _all_are(values: list, kind: type | tuple[type, ...]) -> bool:
    return all(isinstance(value, kind) for value in values)
