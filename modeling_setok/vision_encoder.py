"""Vision encoders: from the pixels to the patch embeddings of any vision model of transformers."""

import math

from .configuration_setok import SetokConfig


def patch_dim_of(config: SetokConfig) -> int:
    """Dv, the width of the patch embeddings: hierarchical encoders list one width per stage."""
    vision_config = config.vision_config
    return vision_config.hidden_sizes[-1] if hasattr(vision_config, "hidden_sizes") else vision_config.hidden_size


def image_size_of(config: SetokConfig) -> tuple[int, int]:
    """Height and width in pixels of the images that the encoder was made for."""
    vision_config = config.vision_config
    if hasattr(vision_config, "num_patches"):  # SigLIP2 takes any shape of about as many patches
        return as_pair(math.isqrt(vision_config.num_patches) * vision_config.patch_size)
    return as_pair(getattr(vision_config, "image_size", None) or 224)


def as_pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """(value, value) of a number; a pair as it is."""
    return (value, value) if isinstance(value, int) else tuple(value)
