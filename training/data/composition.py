"""Cut-outs put on a ground: where they fit, the picture, and the exact pixels that are left of each.

All arithmetic on pixels is on integers, so that a seed gives the same bytes on every machine.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

MIN_VISIBLE = 0.7  # of each object's pixels
_ATTEMPTS = 24  # to find a place for an object
_COVERAGE = 0.6  # all objects' squares together cover at most this fraction of the image
_SMALLEST = 4  # pixels of an object's longer side
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Composition:
    """A picture of objects on a ground; later objects lie over earlier ones.

    Attributes:
        image: (H, W, 3) uint8.
        masks: (n, H, W) bool, the visible pixels of each object (its alpha above one half, not covered); disjoint.
        names: n object names.
        boxes: (n, 4) int64, xyxy in pixels around the visible part, x2 and y2 exclusive; zeros if nothing is visible.
        visible: (n,) float64, visible fraction of each object's pixels.
        background: its kind, and the name of its colour or picture.
    """

    image: np.ndarray
    masks: np.ndarray
    names: list[str]
    boxes: np.ndarray
    visible: np.ndarray
    background: tuple[str, str]


def check_objects(image_size: int, min_objects: int, max_objects: int, object_size: tuple[float, float]) -> None:
    """Raises ValueError for values of a configuration of scenes that are out of range or leave no room for objects."""
    if not 1 <= min_objects <= max_objects <= 12:
        raise ValueError(f"needed: 1 <= min_objects <= max_objects <= 12, not {min_objects} and {max_objects}")
    smallest, largest = object_size
    if not 0 < smallest <= largest <= 0.75:
        raise ValueError(f"object_size must be a range (low, high) within 0 to 0.75, not {object_size}")
    if image_size * min(smallest, math.sqrt(_COVERAGE / max_objects)) < _SMALLEST:
        raise ValueError(
            f"the smallest object would be under {_SMALLEST} pixels; raise image_size or object_size, "
            "or lower max_objects"
        )


def fit_sizes(
    rng: np.random.Generator,
    count: int,
    object_size: tuple[float, float],
    image_size: int,
    arrange: Callable[[list[int]], Found | None],
    step: int = 1,
) -> Found:
    """What `arrange` makes of `count` random sizes (pixels) at which it finds a place for every object.

    Args:
        object_size: range of the sizes as a fraction of the image's side; many objects get smaller ones.
        arrange: gives None where it finds no place: it is asked again with smaller objects.
        step: the sizes are multiples of this.
    """
    largest = min(object_size[1], math.sqrt(_COVERAGE / count))
    smallest = min(object_size[0], largest)
    while True:
        sizes = (smallest + (largest - smallest) * rng.random(count)) * image_size
        arranged = arrange((np.rint(sizes / step) * step).astype(int).tolist())
        if arranged is not None:
            return arranged
        largest = max(smallest, 0.95 * largest)
        smallest *= 0.97


def place(rng: np.random.Generator, masks: Iterable[np.ndarray], image_size: int) -> list[tuple[int, int]] | None:
    """Upper left corners (x, y) for objects laid one after the other, or None where one finds no place.

    Every object lies inside the square image and keeps `MIN_VISIBLE` of its pixels.

    Args:
        masks: the pixels (h, w) bool of each object. Each is taken when its turn comes, so that a generator may draw
            from the same random numbers in between.
        image_size: side of the image in pixels.
    """
    owner = np.full((image_size, image_size), -1, np.int8)
    corners, totals, visible = [], [], np.zeros(0, int)
    for index, mask in enumerate(masks):
        height, width = mask.shape
        attempts = rng.random((_ATTEMPTS, 2)) * (image_size - width + 1, image_size - height + 1)
        for x, y in attempts.astype(int).tolist():
            below = owner[y : y + height, x : x + width][mask]
            left = visible - np.bincount(below + 1, minlength=index + 1)[1:]
            if all(rest >= MIN_VISIBLE * whole for rest, whole in zip(left.tolist(), totals, strict=True)):
                break
        else:
            return None
        owner[y : y + height, x : x + width][mask] = index
        corners.append((x, y))
        totals.append(np.count_nonzero(mask))
        visible = np.append(left, totals[-1])
    return corners


def compose(
    image: np.ndarray, sprites: Sequence[tuple[np.ndarray, np.ndarray]], corners: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws sprites into an image, in place; later ones lie over earlier ones.

    Args:
        image: (S, S, 3) uint8.
        sprites: of each object premultiplied RGBA (h, w, 4) uint8 and its pixels (h, w) bool.
        corners: its upper left corner (x, y).

    Returns:
        masks: (n, S, S) bool, the visible pixels of each object; disjoint.
        visible: (n,) float64, visible fraction of each object's pixels.
    """
    owner = np.full(image.shape[:2], -1, np.int8)
    for index, ((pixels, mask), (x, y)) in enumerate(zip(sprites, corners, strict=True)):
        window = slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1])
        owner[window][mask] = index
        keep = 255 - pixels[..., 3:].astype(np.uint16)
        image[window] = pixels[..., :3] + ((image[window] * keep + 127) // 255).astype(np.uint8)
    masks = owner == np.arange(len(sprites), dtype=np.int8)[:, None, None]
    totals = np.array([np.count_nonzero(mask) for _, mask in sprites])
    return masks, masks.sum((1, 2)) / np.maximum(totals, 1)


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """(n, 4) int64 xyxy around the True pixels of (n, H, W) masks, x2 and y2 exclusive; zeros where there are none."""
    edges = []
    for along in (masks.any(1), masks.any(2)):  # columns, rows
        some = along.any(1)
        edges += [along.argmax(1) * some, (along.shape[1] - along[:, ::-1].argmax(1)) * some]
    return np.stack(edges, 1)[:, [0, 2, 1, 3]]


def resized_sprite(picture: Image.Image, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A premultiplied picture (Pillow's mode "RGBa") as a sprite whose longer side is `size` pixels.

    Returns premultiplied RGBA (h, w, 4) uint8 and the object's pixels (h, w) bool (alpha above one half), read-only.
    """
    scale = size / max(picture.size)
    pixels = np.array(picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS))
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])  # Lanczos overshoot: premultiplied colour <= alpha
    pixels.setflags(write=False)
    mask = pixels[..., 3] > 127
    mask.setflags(write=False)
    return pixels, mask
