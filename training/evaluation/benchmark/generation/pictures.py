"""Pictures as they are compared."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def central_square(picture: Image.Image, side: int) -> Image.Image:
    """The largest square in the middle of a picture, `side` pixels wide: the usual "256 x 256" of ImageNet and COCO."""
    width, height = picture.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    return resized(picture.crop((left, top, left + edge, top + edge)), (side, side))


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture with (width, height) pixels, the same where it has them already."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def to_tensors(pictures: Iterable[Image.Image], device: str | torch.device = "cpu") -> Tensor:
    """Pictures of one size -> (B, 3, H, W) float32 in [0, 1]."""
    pixels = torch.stack([torch.from_numpy(np.array(picture.convert("RGB"))) for picture in pictures])
    return pixels.to(device).permute(0, 3, 1, 2) / 255


def to_picture(pixels: Tensor) -> Image.Image:
    """What `to_tensors` made (3, H, W) of."""
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def batches(pairs: Iterable, size: int = 32) -> Iterator[list]:
    """Lists of some at a time."""
    iterator = iter(pairs)
    while batch := list(islice(iterator, size)):
        yield batch
