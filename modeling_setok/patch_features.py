"""What a vision-language model of transformers makes of its pixels, and the same with concept tokens in their place."""

import copy
import inspect
import math
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .patch_sets import ConceptMeans

MODALITIES = ("image", "video")
PIXELS = ("pixel_values", "pixel_values_images", "pixel_values_videos", "image_patches")


def placeholder_id(config, modality: str) -> int:
    """The id of the token that stands in the text for each patch of an `"image"` or a `"video"`."""
    for name in (f"{modality}_token_id", f"{modality}_token_index"):
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    raise ValueError(f"{type(config).__name__} has no {modality}_token_id: it does not say which token is a patch.")


def encoded_patches(base: PreTrainedModel, inputs: dict[str, Any]) -> tuple[dict[str, ModelOutput], set[str]]:
    """What the vision model makes of the pixels, by modality, and the names of the pixels among the inputs.

    Those that are given as `mm_encoder_outputs` are taken from there; those with concept tokens already are left out.
    """
    given = dict(inputs.get("mm_encoder_outputs") or {})
    if not given and all(inputs.get(name) is None for name in PIXELS):  # as in each step of generation but the first
        return {}, set()
    outputs = {name: x for name, x in given.items() if x is not None and not getattr(x, "has_concept_tokens", False)}
    pixels: set[str] = set()
    for modality in MODALITIES:
        encode = getattr(base, f"get_{modality}_features", None)
        if encode is None:
            continue
        names = [name for name in inspect.signature(encode).parameters if inputs.get(name) is not None]
        if any(name in PIXELS for name in names):
            if given.get(modality) is not None:
                raise ValueError(f"Give the {modality}s as pixels or as mm_encoder_outputs, not as both.")
            outputs[modality] = encode(**{name: inputs[name] for name in names}, return_dict=True)
            if getattr(outputs[modality], "pooler_output", None) is None:
                raise ValueError(f"{type(base).__name__} gives no pooler_output of its {modality}s.")
            pixels.update(name for name in names if name in PIXELS)
    return outputs, pixels


def flat_features(features: torch.Tensor | list[torch.Tensor]) -> tuple[torch.Tensor, list[int] | None]:
    """All patches (N, D), and how many each tensor held: of a list, of (I, n, D), or `None` of one tensor (N, D)."""
    if isinstance(features, torch.Tensor) and features.ndim == 2:
        return features, None
    tensors = [x.flatten(0, -2) for x in features]
    return torch.cat(tensors), [len(x) for x in tensors]


def like_features(
    tokens: torch.Tensor, counts: list[int], features: torch.Tensor | list[torch.Tensor]
) -> torch.Tensor | list[torch.Tensor]:
    """Tokens (T, D) in the kind of `features`: a list of `counts` tokens each, (1, T, D), or (T, D)."""
    if isinstance(features, torch.Tensor):
        return tokens.view(*([1] * (features.ndim - 2)), *tokens.shape)
    return list(tokens.split(counts))


def patch_grids(inputs: dict[str, Any], modality: str, sizes: list[int]) -> list[tuple[int, ...]]:
    """The rows and columns (t, h, w) of each tensor of patches, or (N,) where they cannot be known.

    They follow from what the processor says of the image (`image_grid_thw`, or `image_sizes` in pixels where patches
    keep its aspect), or the patches are a square.
    """
    frames = inputs.get(f"{modality}_grid_thw")
    pixels = inputs.get("image_sizes") if modality == "image" else None
    grids = []
    for index, count in enumerate(sizes):
        grid: tuple[int, ...] = (count,)
        if frames is not None and len(frames) == len(sizes):
            t, h, w = frames[index].tolist()
            merged = math.isqrt(t * h * w // count)
            grid = (t, h // merged, w // merged)
        elif pixels is not None and len(pixels) == len(sizes):
            height, width = (int(x) for x in pixels[index])
            rows = [r for r in range(1, count + 1) if count % r == 0]
            best = min(rows, key=lambda r: abs(math.log(r * r * width / (count * height))))
            if abs(best - math.sqrt(count * height / width)) < 1:
                grid = (1, best, count // best)
        elif math.isqrt(count) ** 2 == count:
            grid = (1, math.isqrt(count), math.isqrt(count))
        grids.append(grid if math.prod(grid) == count else (count,))
    return grids


def compared_features(output: ModelOutput, features: str) -> torch.Tensor:
    """(N, D): the patches as they are compared, `"projected"` for the language model, or those of the `"encoder"`."""
    patches, _ = flat_features(output.pooler_output)
    if features == "projected":
        return patches
    hidden = output.last_hidden_state
    hidden = None if hidden is None else hidden.flatten(0, -2)
    if hidden is None or len(hidden) != len(patches):
        raise ValueError(
            f"The vision model gives {'no' if hidden is None else len(hidden)} states for {len(patches)} patches that "
            'the language model sees: they cannot be compared one by one. Use features="projected".'
        )
    return hidden


def mean_output(output: ModelOutput, means: ConceptMeans) -> ModelOutput:
    """The output with the means of its patches, in all the kinds that it came in (deepstack features along)."""

    def of(features):
        flat, sizes = flat_features(features)
        counts = []
        if sizes is not None:
            tensors = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
            counts = tensors[means.seeds.cpu()].bincount(minlength=len(sizes)).tolist()
        return like_features(means.of(flat), counts, features)

    return _with_features(output, of)


def repeated_output(output: ModelOutput, row_counts: list[int], times: int) -> ModelOutput:
    """The output for rows that are each repeated `times` times; a row has `row_counts` tokens."""

    def of(features):
        flat, _ = flat_features(features)
        rows = [row for row in flat.split(row_counts) for _ in range(times)]
        return like_features(torch.cat(rows), [len(row) for row in rows], features)

    return _with_features(output, of)


def _with_features(output: ModelOutput, change) -> ModelOutput:
    changed = copy.copy(output)
    changed.pooler_output = change(output.pooler_output)
    if getattr(output, "deepstack_features", None) is not None:
        changed.deepstack_features = [change(layer) for layer in output.deepstack_features]
    changed.has_concept_tokens = True
    return changed
