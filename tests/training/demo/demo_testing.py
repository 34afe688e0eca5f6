"""What the tests of the demo and its page compare."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[3]
SETOK, SETOKIM = (str(ROOT / "model_cards" / name) for name in ("setok-emoji-tiny", "setokim-emoji-tiny"))


def same(picture: Image.Image, expected: Image.Image) -> bool:
    return np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(expected.convert("RGB")))


def painting_of(models, sentence: str, seed: int, **options) -> Image.Image:
    return models.setokim.generate_image(
        models.processor, sentence, generator=torch.Generator().manual_seed(seed), **options
    )
