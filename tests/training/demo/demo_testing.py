"""What the tests of the demo and its page compare."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from processing import SetokImageProcessor
from training.data import concept_names

ROOT = Path(__file__).parents[3]
SETOK = str(ROOT / "model_cards" / "setok-emoji-tiny")

NAMES = list(concept_names("tiny"))
SIZE, GRID = 32, 8


def square_processor(size: int) -> SetokImageProcessor:
    return SetokImageProcessor(size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


PROCESSOR = square_processor(SIZE)


def same(picture: Image.Image, expected: Image.Image) -> bool:
    return np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(expected.convert("RGB")))


def painting_of(models, sentence: str, seed: int, **options) -> Image.Image:
    return models.setokim.generate_image(
        models.processor, sentence, generator=torch.Generator().manual_seed(seed), **options
    )


def gradient(width, height):
    """A picture that differs at each of its sides."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))
