"""Concept tokens at the resolution of the picture: their borders moved from the edges of patches to those of things."""

from typing import Any

import numpy as np
from PIL import Image

MARGIN = 0.36  # of a patch's side at each edge: what lies within may belong to a neighbouring token


def sharpen_tokens(image: Image.Image | np.ndarray, cluster_ids: Any, grid_size: tuple[int, int]) -> np.ndarray:
    """
    The token of every pixel. A patch amid patches of its own token keeps all of its pixels, any other one its middle;
    from there tokens grow, over even areas first, until they meet: the watershed of the picture's colour gradient.

    Args:
        image: the picture that was tokenised, RGB, of any size: (H, W, 3) uint8, or of PIL.
        cluster_ids: (h*w,) or (h, w) integers, array or tensor: the token of each patch; -1 marks padding.
        grid_size: (h, w) of the patches.

    Returns:
        (H, W) int64: every token of the patches has pixels; -1 on padding.

    Raises:
        ValueError: the picture has fewer than three pixels on a patch's side, or the ids do not fit the grid.
        ImportError: scikit-image is not installed.
    """
    try:
        from scipy import ndimage
        from skimage.color import rgb2lab
        from skimage.segmentation import watershed
    except ImportError as error:
        raise ImportError("The borders of tokens are sharpened by scikit-image: pip install scikit-image") from error
    pixels = np.asarray(image)
    ids = np.asarray(cluster_ids)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"The picture must be RGB of 8 bits, (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}.")
    if ids.size != grid_size[0] * grid_size[1]:
        raise ValueError(f"{ids.size} cluster ids do not fit a grid of {grid_size[0]} x {grid_size[1]} patches.")
    if min(side / patches for side, patches in zip(pixels.shape, grid_size, strict=False)) < 3:
        raise ValueError(
            f"A picture of {pixels.shape[0]}x{pixels.shape[1]} has no borders finer than those of {grid_size[0]} x "
            f"{grid_size[1]} patches: give one with three pixels or more on a patch's side."
        )
    ids = ids.reshape(grid_size)
    (rows, row_places), (columns, column_places) = (
        _patches(side, patches) for side, patches in zip(pixels.shape[:2], grid_size, strict=True)
    )
    labels = ids[rows[:, None], columns].astype(np.int64)
    middle = np.logical_and.outer(*(np.abs(p - 0.5) < 0.5 - MARGIN for p in (row_places, column_places)))
    sure = middle | _amid_its_own(ids)[rows[:, None], columns] | (labels < 0)
    lab = rgb2lab(pixels)
    gradient = np.sqrt(sum(ndimage.gaussian_gradient_magnitude(lab[..., c], 1.0) ** 2 for c in range(3)))
    return watershed(gradient, markers=np.where(sure, labels + 2, 0)).astype(np.int64) - 2


def _patches(side: int, patches: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel along a side of the picture: its patch, and where in it its middle lies, from 0 to 1."""
    places = (np.arange(side) + 0.5) * patches / side
    return places.astype(int), places % 1


def _amid_its_own(ids: np.ndarray) -> np.ndarray:
    """(h, w) bool: patches whose four neighbours belong to the same token."""
    around = np.pad(ids, 1, mode="edge")
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    return np.logical_and.reduce([neighbour == ids for neighbour in neighbours])
