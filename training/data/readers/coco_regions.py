"""Regions that annotations in the format of COCO tell of: all of a category in a picture, or what a sentence refers to.

The format is that of https://cocodataset.org/#format-data, of LVIS, and of instances.json of the `refer` API.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .. import schema
from ..entries.files import check_picture, find_picture, read_json
from ..entries.records import ById, Place, checked, good_records, one_line, refusal, settled, whole_number
from ..entries.segmentations import Segment, read_segments, segment_area
from ..entries.values import identifier, listed, quoted, text


@dataclass(frozen=True)
class Region:
    """What a row asks for: the union of segments in a picture.

    Attributes:
        picture: its path.
        size: (width, height) of the picture, as the annotations say.
        expression: what the user says for it; `concept` is its name.
    """

    picture: str
    size: tuple[int, int]
    expression: str
    concept: str
    segments: tuple[Segment, ...]

    def messages(self) -> list[dict]:
        return schema.exchange([schema.image(), schema.text(f"Segment {self.expression}.")], [schema.mask()])


Found = tuple[Region, list]
"""A region, and its segmentations as they stand in the file, one of each object."""


def category_regions(annotations: str | Path, images: str | Path, min_area: float) -> Iterator[Place[Found]]:
    """For each picture and category in it the union of its objects, crowds included; see `read_coco`."""
    coco = CocoFile(annotations, images)
    names = coco.by_id("category", "categories", name=text)
    groups = defaultdict(list)  # (picture, category) -> its objects
    for record in coco.records("annotations", image_id=identifier, category_id=identifier).values():
        groups[record["image_id"], record["category_id"]].append(record)

    def large_region(image_id: int, category_id: int) -> Found | None:
        name = one_line(names[category_id]["name"])
        region, segmentations = coco.region(image_id, groups[image_id, category_id], f"the {name}", name)
        width, height = region.size
        area = sum(map(segment_area, region.segments)) / (width * height)  # overlaps count twice
        return (region, segmentations) if area >= min_area else None

    yield from coco.bad
    place = {image_id: position for position, image_id in enumerate(coco.pictures)}
    nothing = not coco.bad
    for key in sorted(groups, key=lambda key: place.get(key[0], len(place))):  # stable; unknown pictures come last
        if make := settled(partial(large_region, *key)):
            nothing = False
            yield f"{annotations}, picture {quoted(key[0])}, category {quoted(key[1])}", make
    if groups and nothing:
        raise ValueError(f"{annotations}: no row is left, all objects are too small")


def expression_regions(
    refs: str | Path, annotations: str | Path, images: str | Path, split: str | None
) -> Iterator[Place[Found]]:
    """For each sentence the object that it refers to; see `read_refcoco`."""
    coco = CocoFile(annotations, images)
    names = coco.by_id("category", "categories", name=text)
    objects = coco.by_id("annotation", "annotations", image_id=identifier, category_id=identifier)

    def region(ann_id: int, sentence: str) -> Found:
        expression = text(one_line(sentence).rstrip("."), "the sentence")
        record = objects[ann_id]
        return coco.region(record["image_id"], [record], expression, one_line(names[record["category_id"]]["name"]))

    fields = {"ann_id": identifier, "split": text, "sentences": listed}
    for index, ref in good_records(read_json(Path(refs), list), str(refs), coco.bad, **fields).items():
        if split not in (None, ref["split"]):
            continue
        for number, sentence in enumerate(ref["sentences"]):
            where = f"{refs}, entry {index}, 'sentences', entry {number}"
            try:
                yield where, partial(region, ref["ann_id"], checked(sentence, sent=text)["sent"])
            except ValueError as error:
                yield where, refusal(error)
    yield from coco.bad


class CocoFile:
    """An annotation file with the folder of its pictures. `bad`: its entries that are none."""

    def __init__(self, annotations: str | Path, images: str | Path):
        self.file, self.folder = str(annotations), Path(images)
        self.bad: list[Place] = []
        self.content = read_json(Path(annotations), dict)
        self.pictures = self.by_id("picture", "images", file_name=text)

    def records(self, key: str, **fields: Callable) -> dict[int, dict]:
        where = f"{self.file}, {key!r}"
        return good_records(listed(self.content.get(key), where), where, self.bad, **fields)

    def by_id(self, what: str, key: str, **fields: Callable) -> ById:
        return ById(what, self.records(key, id=identifier, **fields).values())

    def picture(self, image_id: int) -> str:
        """The path of a picture."""
        return find_picture(self.pictures[image_id]["file_name"], self.folder)

    def region(self, image_id: int, objects: list[dict], expression: str, concept: str) -> Found:
        path, record = self.picture(image_id), self.pictures[image_id]
        if {"width", "height"} <= record.keys():
            width, height = (whole_number(record[side], f"the picture's {side}", 1) for side in ("width", "height"))
        else:  # files of one's own; those of COCO and LVIS have both, and no picture of theirs is read here
            width, height = check_picture(path)
        segmentations = [record.get("segmentation") for record in objects]
        segments = [segment for one in segmentations for segment in read_segments(one, width, height)]
        return Region(path, (width, height), expression, concept, tuple(segments)), segmentations
