"""The geometry of pictures and the masks beside them: resized sizes, nearest neighbours, padding to a common size."""

import math
from fractions import Fraction

import numpy as np
from PIL import Image
from transformers.image_utils import SizeDict


def is_fixed(size: SizeDict) -> bool:
    """Whether every picture gets the same height and width, whatever its aspect ratio."""
    return bool(size.height and size.width)


def resized_size(height: int, width: int, size: SizeDict, divisor: int | None = None) -> tuple[int, int]:
    """Height and width in pixels that a picture of `height` x `width` is resized to.

    Args:
        size: `height` and `width`; or `shortest_edge`, `longest_edge` or both, which keep the aspect ratio: the
            shortest edge gets its length unless the longest would exceed its own.
        divisor: if given, both are rounded to its nearest multiple, at least one; the longest edge is not exceeded.

    Raises:
        ValueError: any other size, or a divisor below 1.
    """
    shortest, longest = size.shortest_edge, size.longest_edge
    if divisor is not None and not (isinstance(divisor, int) and divisor >= 1):
        raise ValueError(f"size_divisor must be a whole number of at least 1, the encoder's patch size, got {divisor}.")
    if is_fixed(size):
        exact = Fraction(size.height), Fraction(size.width)
    elif not (shortest or longest):
        raise ValueError(
            f"size must be {{'height', 'width'}}, or {{'shortest_edge'}}, {{'longest_edge'}} or both, which keep the "
            f"aspect ratio, got {dict(size)}."
        )
    elif shortest and longest and shortest > longest:
        raise ValueError(f"size has a shortest_edge of {shortest} above its longest_edge of {longest}: exchange them.")
    else:
        scales = [Fraction(shortest, min(height, width))] if shortest else []
        scales += [Fraction(longest, max(height, width))] if longest else []
        exact = height * min(scales), width * min(scales)
    if divisor is None:
        return tuple(max(1, int(edge)) for edge in exact)
    most = longest // divisor if longest else math.inf
    return tuple(divisor * max(1, min(round(edge / divisor), most)) for edge in exact)


def resize_nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """PIL's nearest neighbour for integers of any size and any number of masks: its choice of rows and columns."""
    rows, columns = (
        np.asarray(Image.fromarray(np.arange(old, dtype=np.int32)[None]).resize((new, 1), Image.Resampling.NEAREST))[0]
        for old, new in zip(labels.shape[-2:], (height, width), strict=True)
    )
    return labels[..., rows[:, None], columns]


def pad_to_largest(arrays: list[np.ndarray], value: float = 0) -> list[np.ndarray]:
    """Arrays (..., H_i, W_i), each with `value` added at the bottom and right: (..., max H, max W)."""
    height, width = (max(array.shape[axis] for array in arrays) for axis in (-2, -1))
    return [
        np.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, height - array.shape[-2]), (0, width - array.shape[-1])],
               constant_values=value)
        for array in arrays
    ]  # fmt: skip
