"""Vision encoders: from pixels to the patch embeddings of any vision model of transformers.

Functions over an encoder module, which a `SetokModel` holds as it is: its state dict has the encoder's own keys.
"""

import inspect
import math

import torch
from transformers import AutoConfig, AutoModel
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_setok import SetokConfig

# Encoders that normalise nothing but their pooled output: that norm is applied to every patch
POOLED_NORMS = {"clip_vision_model": "post_layernorm", "convnext": "layernorm", "convnextv2": "layernorm"}
# What `from_pretrained` needs to find a configuration; the rest of its arguments is about weights
HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "token",
    "revision",
    "subfolder",
    "trust_remote_code",
)


def load_vision_encoder(name: str, **kwargs) -> PreTrainedModel:
    """A pretrained vision model, or the vision half of a two-tower model (CLIP, SigLIP), without a pooling head.

    Args:
        name: Hub id or folder.
        kwargs: passed to `AutoModel.from_pretrained` (revision, token, dtype, ...).
    """
    vision_config = AutoConfig.from_pretrained(name, **{k: v for k, v in kwargs.items() if k in HUB_ARGUMENTS})
    vision_config = getattr(vision_config, "vision_config", vision_config)
    if hasattr(vision_config, "vision_use_head"):
        vision_config.vision_use_head = False
    return AutoModel.from_pretrained(name, config=vision_config, **kwargs)


def encode_patches(
    encoder: PreTrainedModel, config: SetokConfig, pixel_values: torch.Tensor, **requested: bool
) -> tuple[ModelOutput, torch.Tensor, tuple[int, int]]:
    """Runs the encoder on pixels (B, 3, H, W).

    Args:
        requested: further outputs that it should return, see `requested_outputs`.

    Returns:
        What the encoder returns; the patch embeddings (B, h * w, Dv), in reading order; their grid (h, w).

    Raises:
        ValueError: the pixels are no batch of images, or the encoder has less than one token per patch.
    """
    if pixel_values.ndim != 4:
        raise ValueError(f"pixel_values must be (batch, channels, height, width), got {tuple(pixel_values.shape)}.")
    vision_config = config.vision_config
    run = _run_on_patches if vision_config.model_type == "siglip2_vision_model" else _run_on_images
    outputs = run(encoder, config, pixel_values.to(encoder.dtype), **requested)
    features = outputs.last_hidden_state
    if features.ndim == 4:  # a feature map (B, Dv, h, w)
        height, width = features.shape[-2:]
        features = features.flatten(2).transpose(1, 2)
    else:
        height, width = _grid_size(vision_config, *pixel_values.shape[-2:])
    if vision_config.model_type in POOLED_NORMS:
        features = getattr(encoder, POOLED_NORMS[vision_config.model_type])(features)
    if features.shape[1] < height * width:
        raise ValueError(
            f"The encoder {vision_config.model_type} gave {features.shape[1]} tokens for a grid of {height} x {width} "
            "patches: it merges patches, which SeTok cannot place. Use an encoder with one token per patch."
        )
    return outputs, features[:, features.shape[1] - height * width :], (height, width)  # CLS, registers come first


def _run_on_images(
    encoder: PreTrainedModel, config: SetokConfig, pixel_values: torch.Tensor, **kwargs: bool
) -> ModelOutput:
    if "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters:
        kwargs["interpolate_pos_encoding"] = tuple(pixel_values.shape[-2:]) != image_size_of(config)
    return encoder(pixel_values=pixel_values, return_dict=True, **kwargs)


def _run_on_patches(
    encoder: PreTrainedModel, config: SetokConfig, pixel_values: torch.Tensor, **kwargs: bool
) -> ModelOutput:
    """SigLIP2's encoder takes flattened patches and the shape of their grid instead of an image."""
    batch, channels, *image_size = pixel_values.shape
    size = config.vision_config.patch_size
    height, width = _grid_size(config.vision_config, *image_size)
    patches = pixel_values[:, :, : height * size, : width * size]
    patches = patches.reshape(batch, channels, height, size, width, size).permute(0, 2, 4, 3, 5, 1)
    patches = patches.reshape(batch, height * width, -1)
    return encoder(
        pixel_values=patches,
        pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device),
        spatial_shapes=torch.tensor([(height, width)], device=patches.device).expand(batch, -1),
        return_dict=True,
        **kwargs,
    )


def patch_dim_of(config: SetokConfig) -> int:
    """Dv, the width of the patch embeddings: hierarchical encoders list one width per stage."""
    vision_config = config.vision_config
    return vision_config.hidden_sizes[-1] if hasattr(vision_config, "hidden_sizes") else vision_config.hidden_size


def image_size_of(config: SetokConfig) -> tuple[int, int]:
    """Height and width in pixels of the images that the encoder was made for."""
    vision_config = config.vision_config
    if hasattr(vision_config, "num_patches"):  # SigLIP2 takes any shape of about as many patches
        return _pair(math.isqrt(vision_config.num_patches) * vision_config.patch_size)
    return _pair(getattr(vision_config, "image_size", None) or 224)


def _grid_size(vision_config, height: int, width: int) -> tuple[int, int]:
    patch_height, patch_width = _pair(vision_config.patch_size)
    return height // patch_height, width // patch_width


def _pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
