"""Segmentations as COCO writes them: polygons, and the run lengths of masks, plain or compressed."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from .values import quoted

Segment = np.ndarray
"""A polygon, (n, 2) float32 of x and y in pixels; or the runs of a mask, (n,) int64: how many 0s, 1s, 0s, ... follow
one another, column by column."""

_FARTHEST = 2**31  # pixels from the corner, far within float32


def draw_mask(segments: Sequence[Segment], width: int, height: int) -> np.ndarray:
    """(height, width) bool: the union of polygons and runs."""
    mask = np.zeros((height, width), bool)
    for segment in segments:
        mask |= _fill(segment, width, height) if segment.ndim == 2 else _unroll(segment, width, height)
    return mask


def mask_picture(segmentations: Sequence[object], size: tuple[int, int], noted: Sequence[int] | None) -> Image.Image:
    """The union of segmentations as annotations have them, as a mask of 0 and 255.

    Args:
        size: (width, height) of the picture.
        noted: the size that the annotations say, if they do.

    Raises:
        ValueError: that is another, or a segmentation does not fit the picture.
    """
    if noted is not None and tuple(noted) != tuple(size):
        raise ValueError(f"the picture has {size[0]}x{size[1]} pixels, the annotations say {noted[0]}x{noted[1]}")
    segments = [segment for segmentation in segmentations for segment in read_segments(segmentation, *size)]
    return Image.fromarray(draw_mask(segments, *size).astype(np.uint8) * 255)


def run_lengths(mask: np.ndarray) -> dict:
    """A mask (H, W) bool as COCO writes it, uncompressed: {"size": [H, W], "counts": how many 0s, 1s, 0s, ...}."""
    values = mask.astype(bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(values, prepend=False)) if len(values) else []
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, len(values)]).tolist()}


def mask_of(lengths: Mapping) -> np.ndarray:
    """The mask (H, W) bool of `run_lengths`."""
    height, width = lengths["size"]
    return _unroll(np.array(lengths["counts"], np.int64), width, height)


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


def segment_area(segment: Segment) -> float:
    """In pixels."""
    if segment.ndim == 1:
        return float(segment[1::2].sum())
    (x0, y0), (x1, y1) = segment.T, np.roll(segment, -1, axis=0).T
    return float(abs((x0 * y1 - x1 * y0).sum())) / 2


def read_segments(segmentation: object, width: int, height: int) -> list[Segment]:
    """The segments of an annotation, checked: `[[x, y, x, y, ...], ...]` or `{"size": [h, w], "counts": ...}`."""
    if isinstance(segmentation, dict):
        segments = [_runs(segmentation, width, height)]
    elif isinstance(segmentation, list) and segmentation:
        segments = [_polygon(numbers, width, height) for numbers in segmentation]
    else:
        raise ValueError(f"the segmentation must be polygons or run lengths, not {quoted(segmentation)}")
    if not any(map(segment_area, segments)):
        raise ValueError("the segmentation covers nothing")
    return segments


def _polygon(numbers: object, width: int, height: int) -> Segment:
    if not isinstance(numbers, list) or len(numbers) < 6 or len(numbers) % 2 or not _all_are(numbers, int, float):
        raise ValueError(f"a polygon must be x, y of three points or more, not {quoted(numbers)}")
    outside = ValueError(f"a polygon lies outside the picture of {width}x{height} pixels: {quoted(numbers)}")
    if not all(abs(number) < _FARTHEST for number in numbers):  # as NaN is not
        raise outside
    polygon = np.array(numbers, np.float32).reshape(-1, 2)
    if not ((polygon.max(0) > 0) & (polygon.min(0) < (width, height))).all():
        raise outside
    return polygon


def _runs(rle: dict, width: int, height: int) -> Segment:
    counts = rle.get("counts")
    if isinstance(counts, str):
        counts = _decompress(counts)
    if not isinstance(counts, list) or not _all_are(counts, int) or min(counts, default=-1) < 0:
        raise ValueError(f"run lengths must be a list or a string of integers of at least 0, not {quoted(counts)}")
    if rle.get("size") != [height, width] or sum(counts) != width * height:
        raise ValueError(
            f"the run lengths are of a mask of (height, width) {quoted(rle.get('size'))} and sum to {sum(counts)}; the "
            f"picture has {[height, width]}, {width * height} pixels"
        )
    return np.array(counts, np.int64)


def _decompress(text: str) -> list[int]:
    """COCO's compressed run lengths: of each number groups of 5 bits, the lowest first, each as a character from "0" on
    with bit 5 for "more follows"; bit 4 of the last is the sign. From the fourth number on it is the difference to the
    number two before."""
    counts, value, shift = [], 0, 0
    for character in text:
        group = ord(character) - ord("0")
        if not 0 <= group < 64:
            raise ValueError(f"compressed run lengths hold the character {character!r}")
        if shift > 60:
            raise ValueError("compressed run lengths hold a number of more than 64 bits")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (1 << shift) if group & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the compressed run lengths end within a number")
    return counts


def _all_are(values: list, *kinds: type) -> bool:
    """True and False are no numbers here."""
    return all(type(value) in kinds for value in values)
