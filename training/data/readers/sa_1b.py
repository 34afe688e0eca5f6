"""SA-1B (Kirillov et al. 2023): masks without names, a hundred in a picture."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .. import schema
from ..entries.entry import Entry
from ..entries.files import find_picture, read_json
from ..entries.records import checked, number, settled, whole_number
from ..entries.segmentations import read_segments
from ..entries.values import listed, quoted, text


def read_sa_1b(folder: str | Path, most_masks: int = 4, min_area: float = 0.001) -> Iterator[Entry]:
    """SA-1B as released (https://ai.meta.com/datasets/segment-anything-downloads, SA-1B Dataset Research License;
    format: https://github.com/facebookresearch/segment-anything#dataset): a row of task "outlines" per picture, which
    asks for its largest masks, one turn each, the largest first.

    The masks have no names. What tells them apart is the point that each was found from (`point_coords`), so a request
    is "Segment what is at [0.432, 0.21].": x and y as fractions of the picture's width and height. The largest are
    taken because a model that sees pictures of some hundred pixels has no tokens for the others, and few, because a
    turn is long and the next picture teaches more than the hundredth mask. Scores and boxes are left out.

    Args:
        folder: of sa_223750.jpg with sa_223750.json beside it and others, also in subfolders, such as one per tar file.
        most_masks: of a picture.
        min_area: masks that cover less than this fraction of their picture are left out, and pictures with no other.

    Raises:
        ValueError: for a folder without such files, fewer than one mask, and if all masks are too small.
    """
    if whole_number(most_masks, "most_masks") < 1:
        raise ValueError("most_masks must be at least 1")
    files = sorted(Path(folder).rglob("*.json"))
    if not files:
        raise ValueError(f"{folder} holds no .json files: give the folder into which sa_000000.tar and others were put")
    nothing = True
    for file in files:
        if make := settled(partial(_row, file, most_masks, min_area)):
            nothing = False
            yield Entry(str(file), make)
    if nothing:
        raise ValueError(f"{folder}: no row is left, all masks cover less than {min_area} of their picture")


def _row(file: Path, most_masks: int, min_area: float) -> dict | None:
    content = checked(read_json(file, dict), annotations=listed)
    picture = checked(content.get("image"), file_name=text)
    path = find_picture(picture["file_name"], file.parent)
    size = tuple(whole_number(picture.get(side), f"the picture's {side}", 1) for side in ("width", "height"))
    masks = [checked(mask, area=number, point_coords=listed) for mask in content["annotations"]]
    masks = [mask for mask in masks if mask["area"] >= min_area * size[0] * size[1]]
    masks = sorted(masks, key=lambda mask: -mask["area"])[:most_masks]
    if not masks:
        return None
    turns = [turn for mask in masks for turn in schema.exchange([schema.text(_request(mask, size))], [schema.mask()])]
    turns[0]["content"].insert(0, schema.image())
    segments = [[mask.get("segmentation")] for mask in masks]
    for (segmentation,) in segments:
        read_segments(segmentation, *size)
    return schema.row("outlines", images=[path], messages=turns) | {"segments": segments, "segments_size": size}


def _request(mask: dict, size: tuple[int, int]) -> str:
    points = mask["point_coords"]
    if len(points) != 1 or not isinstance(points[0], list) or len(points[0]) != 2:
        raise ValueError(f"point_coords must be [[x, y]], not {quoted(points)}")
    x, y = (number(value, "a point's place") / side for value, side in zip(points[0], size, strict=True))
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"the point {quoted(points[0])} lies outside the picture of {size[0]}x{size[1]} pixels")
    return f"Segment what is at [{round(x, 3)}, {round(y, 3)}]."
