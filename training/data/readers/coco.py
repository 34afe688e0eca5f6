"""Annotations in the format of COCO: masks of categories (COCO, LVIS), captions, referring expressions (RefCOCO)."""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from PIL import Image, ImageOps

from .. import schema
from ..entries.bad_rows import OnError, Report
from ..entries.entry import Entry, chosen, load_entries
from ..entries.files import check_picture
from ..entries.records import Place, one_line
from ..entries.segmentations import draw_mask
from ..entries.values import identifier, text
from .coco_regions import CocoFile, Found, Region, category_regions, expression_regions


def read_coco(annotations: str | Path, images: str | Path, min_area: float = 0.001) -> Iterator[Entry]:
    """Masks of COCO (instances_train2017.json in annotations_trainval2017.zip, pictures in train2017.zip; annotations
    CC BY 4.0, pictures as on Flickr, https://cocodataset.org) and of LVIS (lvis_v1_train.json, CC BY 4.0, the same
    pictures): a row per picture and category in it, picture by picture, such as "Segment the dog." with the union of
    all dogs, crowds included.

    One bad object makes the row of its category bad: a mask without it would be a wrong answer.

    Args:
        annotations: the JSON file. Segmentations are polygons or run lengths, plain or compressed.
        images: the folder of the pictures.
        min_area: a category that covers less than this fraction of a picture is left out; the default is about one
            patch of 14 pixels in a picture of 384.

    Raises:
        ValueError: for a file that is not in this format, and if all objects are too small.
    """
    return _entries(category_regions(annotations, images, min_area))


def read_refcoco(
    refs: str | Path, annotations: str | Path, images: str | Path, split: str | None = None
) -> Iterator[Entry]:
    """RefCOCO, RefCOCO+ and RefCOCOg of the `refer` API (https://github.com/lichengunc/refer, which states no licence;
    pictures of COCO's train2014.zip): a row per sentence, such as "Segment left woman in red.", with the object that it
    refers to.

    Args:
        refs: refs(unc).p or refs(umd).p as JSON, a list of `{"ann_id": int, "split": str, "sentences": [{"sent": str},
            ...]}`. The releases have a pickle, which can run code when it is read and is therefore not; write it out
            as JSON once.
        annotations: instances.json beside it, as for `read_coco`.
        images: the folder of the pictures.
        split: "train", "val", "testA", "testB" or "test", as the data set has them; all without it.

    Raises:
        ValueError: for a file that is not in this format.
    """
    return _entries(expression_regions(refs, annotations, images, split))


def read_coco_captions(annotations: str | Path, images: str | Path) -> Iterator[Entry]:
    """Captions of COCO (captions_train2017.json, from where and under what `read_coco` says): a row each, of task
    "caption".

    Raises:
        ValueError: for a file that is not in this format.
    """
    coco = CocoFile(annotations, images)

    def row(record: dict) -> dict:
        return {"image": coco.picture(record["image_id"]), "caption": one_line(record["caption"])}

    for index, record in coco.records("annotations", image_id=identifier, caption=text).items():
        yield Entry(f"{annotations}, 'annotations', entry {index}", partial(row, record))
    yield from (Entry(*place) for place in coco.bad)


@dataclass(frozen=True, eq=False)
class CocoMasks:
    """A map-style dataset (`len`, `[index]`) of rows of task "referring"; `load_coco` and `load_refcoco` make it. The
    picture of a row is read, and its mask drawn, when asked for."""

    regions: Sequence[Region]

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: int) -> dict:
        """A row of `schema.FEATURES` with PIL pictures."""
        region = self.regions[index]
        with Image.open(region.picture) as file:
            picture = ImageOps.exif_transpose(file)
        mask = Image.fromarray(draw_mask(region.segments, *picture.size).astype(np.uint8) * 255)
        return _row(region, images=[picture], masks=[mask])

    def select(self, indices: Iterable[int]) -> "CocoMasks":
        """Some of the rows, in this order."""
        return CocoMasks([self.regions[index] for index in indices])

    def messages(self, index: int) -> list[dict]:
        """Those of a row, without reading its picture."""
        return self.regions[index].messages()

    def __iter__(self) -> Iterator[dict]:
        return map(self.__getitem__, range(len(self)))


def load_coco(
    annotations: str | Path,
    images: str | Path,
    *,
    min_area: float = 0.001,
    on_error: OnError = "raise",
    only: Container[int] | None = None,
) -> CocoMasks:
    """Loads the rows of `read_coco`, with every picture read once to see that it is whole.

    Args:
        annotations, images, min_area: as for `read_coco`.
        on_error: "raise" a ValueError that lists the first bad rows, or "skip" them with one warning that names them.
        only: the numbers of the entries of `read_coco` to load, good or bad; by default all.

    Raises:
        ValueError: for a file that is not in this format, for bad rows as `on_error` says, if no row is left.
    """
    return _load(chosen(category_regions(annotations, images, min_area), only), str(annotations), on_error)


def load_refcoco(
    refs: str | Path,
    annotations: str | Path,
    images: str | Path,
    split: str | None = None,
    on_error: OnError = "raise",
    only: Container[int] | None = None,
) -> CocoMasks:
    """Loads the rows of `read_refcoco`, which takes the same arguments; else as `load_coco`."""
    return _load(chosen(expression_regions(refs, annotations, images, split), only), str(refs), on_error)


def load_coco_captions(annotations: str | Path, images: str | Path, on_error: OnError = "raise") -> datasets.Dataset:
    """Loads the rows of `read_coco_captions`, which takes the same arguments; else as `load_coco`."""
    return load_entries(read_coco_captions, str(annotations), on_error, annotations=annotations, images=images)


def _entries(places: Iterable[Place[Found]]) -> Iterator[Entry]:
    for where, make in places:
        yield Entry(where, partial(_lazy_row, make))


def _lazy_row(make: Callable[[], Found]) -> dict:
    region, segmentations = make()
    return _row(region, images=[region.picture]) | {"segments": [segmentations], "segments_size": region.size}


def _load(places: Iterable[Place[Found]], source: str, on_error: OnError) -> CocoMasks:
    report = Report(source, on_error)
    regions = [report.attempt(where, partial(_whole_region, make)) for where, make in places]
    regions = [region for region in regions if region is not None]
    report.close(len(regions))
    return CocoMasks(regions)


def _whole_region(make: Callable[[], Found]) -> Region:
    """A region whose picture was read to its end and has the size that the annotations say."""
    region, _ = make()
    size = check_picture(region.picture)
    if size != region.size:
        raise ValueError(
            f"picture {region.picture} has {size[0]}x{size[1]} pixels, the annotations say "
            f"{region.size[0]}x{region.size[1]}"
        )
    return region


def _row(region: Region, **pictures: list) -> dict:
    return schema.row("referring", messages=region.messages(), concepts=[region.concept], **pictures)
