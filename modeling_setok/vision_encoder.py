"""Vision encoders: from pixels to the patch embeddings of any vision model of transformers.

Functions over an encoder module, which a `SetokModel` holds as it is: its state dict has the encoder's own keys.
"""

import copy
import inspect
import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from .attention_of_parts import with_attention_of
from .configuration_setok import SetokConfig
from .forward_arguments import returned_outputs

# Encoders that normalise nothing but their pooled output: that norm is applied to every patch
POOLED_NORMS = {"clip_vision_model": "post_layernorm", "convnext": "layernorm", "convnextv2": "layernorm"}
# What encoders call the norm after their last layer
LAST_NORMS = ("post_layernorm", "layernorm", "layer_norm", "norm", "rms_norm")
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


def make_vision_encoder(config: SetokConfig) -> PreTrainedModel:
    """A new encoder of `config.vision_config`.

    Raises:
        ValueError: it is no vision model, or `config.vision_feature_layer` is none of its layers.
    """
    # In the dtype that all else is made in: transformers tells it to parts, but not to the parts of parts
    make = partial(AutoModel.from_config, dtype=torch.get_default_dtype())
    encoder = with_attention_of(config, make, config.vision_config)
    if encoder.main_input_name != "pixel_values":
        raise ValueError(f"vision_config must be of a vision model, got {config.vision_config.model_type!r}.")
    if any(layer is not None for layer in _chosen_layers(config)):
        has_norm = _gives_maps(config) or _last_norm(encoder) is not None
        if not has_norm or _layers(encoder, config) is None:
            raise ValueError(
                f"vision_feature_layer={config.vision_feature_layer} needs an encoder whose layers and whose last norm "
                f"({', '.join(LAST_NORMS)}) SeTok can find, and those of {config.vision_config.model_type} it cannot. "
                "Use vision_feature_layer=-1; for an earlier layer, an encoder that has no more layers."
            )
    return encoder


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

    H and W are multiples of the encoder's patch size, or the size that it was made for: SigLIP-SO400M of 384 pixels has
    patches of 14, whose convolution leaves out the last 6 pixels.

    Args:
        requested: further outputs that it should return, see `requested_outputs`.

    Returns:
        What the encoder returns; the patch embeddings (B, h * w, Dv), in reading order, of several layers side by side,
        the last of which are clustered; their grid (h, w).

    Raises:
        ValueError: the pixels are no batch of images or end within a patch, or what the encoder gives are no patches of
            the expected width.
    """
    _refuse_other_than_pixels(pixel_values, getattr(config.vision_config, "num_channels", 3))
    _refuse_cut_patches(pixel_values.shape[-2:], config)
    layers = _chosen_layers(config)
    if any(layer is not None for layer in layers):
        requested["output_hidden_states"] = True
    run = _run_on_patches if config.vision_config.model_type == "siglip2_vision_model" else _run_on_images
    outputs = run(encoder, config, pixel_values.to(encoder.dtype), **requested)
    parts = [_patches_of_layer(encoder, config, outputs, layer, pixel_values.shape) for layer in layers]
    grid_size = parts[-1][1]
    # Stages of a hierarchical encoder have grids of their own: that of the clustered one holds for all
    parts = [patches if own == grid_size else _pool(patches, own, grid_size) for patches, own in parts]
    return outputs, torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0], grid_size


def encode_layers(
    encoder: PreTrainedModel, config: SetokConfig, pixel_values: torch.Tensor, layers: Sequence[int]
) -> tuple[dict[int, torch.Tensor], tuple[int, int]]:
    """As `encode_patches`, for hidden states of one's own choice: {layer: patches (B, h * w, width)}, their grid."""
    config = copy.copy(config)
    config.vision_feature_layer = list(layers)
    _, patches, grid_size = encode_patches(encoder, config, pixel_values)
    widths = [_layer_dim(config, layer) for layer in _chosen_layers(config)]
    return dict(zip(layers, patches.split(widths, dim=-1), strict=True)), grid_size


def _patches_of_layer(
    encoder: PreTrainedModel, config: SetokConfig, outputs: ModelOutput, layer: int | None, pixels: torch.Size
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Patches (B, h * w, width) of one hidden state, normalised, and their grid."""
    model_type = config.vision_config.model_type
    features = outputs.last_hidden_state if layer is None else _hidden_state(outputs, config, layer)
    is_map = features.ndim == 4  # (B, width, h, w)
    if is_map:
        height, width = features.shape[-2:]
        features = features.flatten(2).transpose(1, 2)
    else:
        height, width = _grid_size(config.vision_config, *pixels[-2:])
    if len(features) != pixels[0]:
        raise ValueError(
            f"The encoder {model_type} gave a batch of {len(features)} for {pixels[0]} images: it packs the "
            "patches of all into one row, which SeTok cannot take apart. Use an encoder with one row per image."
        )
    _refuse_other_than_patches(features, (height, width), _layer_dim(config, layer), config)
    if layer is None and model_type in POOLED_NORMS:
        features = getattr(encoder, POOLED_NORMS[model_type])(features)
    elif layer is not None and not is_map:
        features = _last_norm(encoder)(features)
    return features[:, features.shape[1] - height * width :], (height, width)  # CLS, registers come first


def _pool(patches: torch.Tensor, grid_size: tuple[int, int], new_grid: tuple[int, int]) -> torch.Tensor:
    maps = patches.transpose(1, 2).unflatten(2, grid_size)
    return nn.functional.adaptive_avg_pool2d(maps, new_grid).flatten(2).transpose(1, 2)


def _refuse_other_than_pixels(pixel_values: torch.Tensor, num_channels: int) -> None:
    shape = tuple(pixel_values.shape)
    if pixel_values.ndim != 4 or 0 in shape:
        raise ValueError(f"pixel_values must be (batch, channels, height, width), got {shape}; none of them may be 0.")
    if shape[1] != num_channels:
        raise ValueError(f"pixel_values have {shape[1]} channels, and the encoder sees {num_channels}: got {shape}.")
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values must be floating point, scaled as the image processor does it, got {pixel_values.dtype}."
        )


def _refuse_cut_patches(image_size: torch.Size, config: SetokConfig) -> None:
    if _gives_maps(config) or tuple(image_size) == image_size_of(config):
        return
    patch_size = _pair(config.vision_config.patch_size)
    if any(length % patch for length, patch in zip(image_size, patch_size, strict=True)):
        raise ValueError(
            f"Pictures of {image_size[0]} x {image_size[1]} pixels (height x width) end within a patch of "
            f"{patch_size[0]} x {patch_size[1]}, which the encoder would leave out. Use multiples, as an image "
            f"processor with size_divisor={patch_size[0]} gives them, or {image_size_of(config)}, the encoder's own."
        )


def _refuse_other_than_patches(
    features: torch.Tensor, grid_size: tuple[int, int], layer_dim: int, config: SetokConfig
) -> None:
    model_type = config.vision_config.model_type
    height, width = grid_size
    if features.shape[1] < height * width:
        raise ValueError(
            f"The encoder {model_type} gave {features.shape[1]} tokens for a grid of {height} x {width} patches: it "
            "merges patches, which SeTok cannot place. Use an encoder with one token per patch."
        )
    if features.shape[2] != layer_dim:
        raise ValueError(
            f"The encoder {model_type} gave embeddings of width {features.shape[2]} for vision_feature_layer="
            f"{config.vision_feature_layer}, where its configuration says {layer_dim}: SeTok cannot use that layer."
        )


def refuse_other_patch_embeddings(
    config: SetokConfig, patch_embeddings: torch.Tensor, grid_size: tuple[int, int], requested: dict[str, bool]
) -> None:
    """Raises ValueError unless patch embeddings on a grid are what `encode_patches` gives, and nothing more is
    requested of the encoder, which does not run."""
    if any(requested.values()):
        raise ValueError("The encoder's hidden states and attentions need pixel_values: it does not run otherwise.")
    expected = (math.prod(grid_size), patch_dim_of(config))
    if patch_embeddings.shape[1:] != expected:
        raise ValueError(
            f"patch_embeddings must be (batch, h * w, Dv) = (batch, {expected[0]}, {expected[1]}) on a grid of "
            f"{tuple(grid_size)}, got {tuple(patch_embeddings.shape)}: make them with get_patch_embeddings."
        )


def _hidden_state(outputs: ModelOutput, config: SetokConfig, layer: int) -> torch.Tensor:
    vision_config = config.vision_config
    hidden_states = returned_outputs(outputs, vision_config, output_hidden_states=True)["hidden_states"]
    if len(hidden_states) != _num_layers(config) + 1:
        raise ValueError(
            f"The encoder {vision_config.model_type} gives {len(hidden_states)} hidden states and has "
            f"{_num_layers(config)} layers, so that which layer gave which is unknown. Use vision_feature_layer=-1."
        )
    return hidden_states[layer]


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


def unused_parameters(encoder: PreTrainedModel, config: SetokConfig) -> Iterator[nn.Parameter]:
    """Those of an encoder that the patch embeddings do not depend on."""
    for name, parameter in encoder.named_parameters():
        if name.split(".", 1)[0] == "pooler" or name.endswith("mask_token"):
            yield parameter
    layers = _chosen_layers(config)
    if None not in layers:
        for module in _layers(encoder, config)[max(layers) :]:
            yield from module.parameters()
        if _gives_maps(config) and _last_norm(encoder) is not None:
            yield from _last_norm(encoder).parameters()


def keep_frozen_statistics(model: nn.Module) -> None:
    """Puts every normalisation with running statistics whose own weights are frozen in eval mode.

    For `train()` of a model: the statistics of a batch are used, and move the running ones, only where the
    normalisation itself is trained. So the frozen parts of a model, with or without adapters beside them, compute in
    training what they compute after it. A normalisation without weights follows the whole model.
    """
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            own = list(module.parameters(recurse=False)) or list(model.parameters())
            if not any(parameter.requires_grad for parameter in own):
                module.eval()


def patch_dim_of(config: SetokConfig) -> int:
    """Dv, the width of the patch embeddings: of all layers that `config.vision_feature_layer` chooses, side by side.

    Raises:
        ValueError: the encoder has no such layer.
    """
    return sum(_layer_dim(config, layer) for layer in _chosen_layers(config))


def clustered_dim_of(config: SetokConfig) -> int:
    """How many of the patch embeddings' channels, the last ones, are clustered: those of the last chosen layer."""
    return _layer_dim(config, _chosen_layers(config)[-1])


def clustered_layer_of(config: SetokConfig) -> int:
    """Number of the hidden state that is clustered, counted from 0, the embeddings, where the encoder has layers."""
    layer = _chosen_layers(config)[-1]
    return _num_layers(config) if layer is None else layer


def image_size_of(config: SetokConfig) -> tuple[int, int]:
    """Height and width in pixels of the images that the encoder was made for."""
    vision_config = config.vision_config
    if hasattr(vision_config, "num_patches"):  # SigLIP2 takes any shape of about as many patches
        return _pair(math.isqrt(vision_config.num_patches) * vision_config.patch_size)
    return _pair(getattr(vision_config, "image_size", None) or 224)


def _chosen_layers(config: SetokConfig) -> list[int | None]:
    """The hidden states that `config.vision_feature_layer` chooses, counted from 0; `None` stands for the last."""
    chosen = config.vision_feature_layer
    layers = [_counted_from_0(layer, config) for layer in (chosen if isinstance(chosen, list) else [chosen])]
    if len(set(layers)) < len(layers):
        raise ValueError(f"vision_feature_layer={chosen} names a layer twice: each is merged once.")
    return layers


def _counted_from_0(layer: int, config: SetokConfig) -> int | None:
    if layer == -1:
        return None
    model_type, num_layers = config.vision_config.model_type, _num_layers(config)
    if num_layers is None:
        raise ValueError(f"The encoder {model_type} does not say how many layers it has: use vision_feature_layer=-1.")
    if not -num_layers - 1 <= layer <= num_layers:
        raise ValueError(
            f"vision_feature_layer={layer} is out of range: the encoder {model_type} has {num_layers} layers, whose "
            f"hidden states are 0 (the embeddings) to {num_layers}, or {-num_layers - 1} to -1."
        )
    return None if layer == num_layers else layer % (num_layers + 1)


def _layer_dim(config: SetokConfig, layer: int | None) -> int:
    vision_config = config.vision_config
    if not _gives_maps(config):
        return vision_config.hidden_size
    if layer is None:
        return vision_config.hidden_sizes[-1]
    if layer == 0:
        return getattr(vision_config, "embedding_size", vision_config.hidden_sizes[0])
    return vision_config.hidden_sizes[layer - 1]


def _num_layers(config: SetokConfig) -> int | None:
    if _gives_maps(config):
        return len(config.vision_config.hidden_sizes)
    return getattr(config.vision_config, "num_hidden_layers", None)


def _gives_maps(config: SetokConfig) -> bool:
    """Whether the encoder is hierarchical: a layer is a stage, and each has a feature map of its own size and width."""
    return hasattr(config.vision_config, "hidden_sizes")


def _layers(encoder: PreTrainedModel, config: SetokConfig) -> nn.ModuleList | None:
    """The layers, or stages, whose inputs and outputs are the encoder's hidden states."""
    stacks = (module for module in encoder.modules() if isinstance(module, nn.ModuleList))
    return next((stack for stack in stacks if len(stack) == _num_layers(config)), None)


def _last_norm(encoder: PreTrainedModel) -> nn.Module | None:
    return next((getattr(encoder, name) for name in LAST_NORMS if hasattr(encoder, name)), None)


def _grid_size(vision_config, height: int, width: int) -> tuple[int, int]:
    patch_height, patch_width = _pair(vision_config.patch_size)
    return height // patch_height, width // patch_width


def _pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
