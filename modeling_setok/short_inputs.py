"""The inputs of a vision-language model with concept tokens in place of its patches."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from .configuration_adaption import ConceptTokenSettings
from .density_peaks import TokenClusters
from .kept_columns import KeptColumns
from .patch_features import compared_features, encoded_patches, flat_features, mean_output, patch_grids, placeholder_id
from .patch_sets import ConceptMeans, concept_means, sets_of_patches


class ShortInputs(NamedTuple):
    """`inputs`: what the model gets; `columns`: which columns of the full text these are; by modality, `means`: which
    patches make which token, and `grids`: how the patches of each tensor lie, see `patch_grids`."""

    inputs: dict[str, Any]
    columns: KeptColumns
    means: dict[str, ConceptMeans]
    grids: dict[str, list[tuple[int, ...]]]


def shortened(
    base: PreTrainedModel,
    inputs: dict[str, Any],
    *,
    cluster: Callable[..., TokenClusters],
    settings: ConceptTokenSettings,
    positions: Callable | None = None,
    on_the_left: bool | None = None,
) -> ShortInputs | None:
    """The inputs of a forward or of `generate` with a concept token at the place of each seed, the other patches gone;
    `None` where they have no patches.

    The attention mask has the number of patches of each token. Every token keeps its place in the full text.

    Args:
        base: the base model.
        cluster: `(features (I, N, D), patch_mask)` to clusters.
        settings: what is compared, and what is one image.
        positions: `(input_ids, inputs)` to the places in the full text; `None`: `full_positions`.
        on_the_left: where rows that end shorter are padded; `None`: where they are.
    """
    outputs, pixels = encoded_patches(base, inputs)
    if not outputs:
        return None
    ids = inputs.get("input_ids")
    if ids is None:
        raise ValueError(
            "A model with concept tokens needs input_ids beside its images: it finds their places by the placeholders, "
            "which inputs_embeds do not show."
        )
    attended = inputs.get("attention_mask")
    if attended is None:
        _refuse_packed_rows(inputs.get("position_ids"))
        attended = torch.ones_like(ids)
    separators = torch.isin(ids, ids.new_tensor(settings.tile_separators))
    sizes, means, grids = torch.ones_like(ids), {}, {}
    for modality, output in outputs.items():
        placeholders = ids == placeholder_id(base.config, modality)
        patches, tensor_sizes = flat_features(output.pooler_output)
        if len(patches) != int(placeholders.sum()):
            raise ValueError(
                f"{int(placeholders.sum())} placeholders of the text do not fit the {len(patches)} patches of the "
                f"{modality}s: give input_ids and pixels as one call of the processor made them."
            )
        sets = sets_of_patches(placeholders, separators, tensor_sizes, across_tiles=settings.across_tiles)
        means[modality] = concept_means(compared_features(output, settings.features), sets, cluster)
        grids[modality] = patch_grids(inputs, modality, tensor_sizes or sets.sizes.tolist())
        outputs[modality] = mean_output(output, means[modality])
        places = placeholders.flatten().nonzero()[:, 0]
        sizes.view(-1)[places] = 0
        sizes.view(-1)[places[means[modality].seeds.to(ids.device)]] = means[modality].sizes.to(ids.device)
    if on_the_left is None:
        on_the_left = bool((attended[:, 0] == 0).any())
    kept = {name: x for name, x in inputs.items() if name not in pixels} | {"mm_encoder_outputs": outputs}
    if bool((sizes == 1).all()):  # padding keeps its own states too
        everything = torch.ones_like(sizes, dtype=torch.bool)
        return ShortInputs(kept, KeptColumns(everything, everything, on_the_left=on_the_left), means, grids)
    if kept.get("position_ids") is None:
        texts = {name: x for name, x in inputs.items() if name != "input_ids"} | {"attention_mask": attended}
        kept["position_ids"] = positions(ids, texts) if positions else full_positions(base, ids, texts)
    kept["attention_mask"] = sizes * attended
    columns = KeptColumns(sizes > 0, attended.bool(), on_the_left=on_the_left)
    return ShortInputs(columns.short_inputs(kept, input_padding=_padding_id(base.config)), columns, means, grids)


def full_positions(base: PreTrainedModel, ids: torch.LongTensor, inputs: dict[str, Any]) -> torch.LongTensor:
    """(B, T), or (3, B, T) where a family has places in height and width: each token's place in the full text."""
    find = getattr(base, "get_rope_index", None)
    if find is not None:
        parameters = inspect.signature(find).parameters
        known = {name: x for name, x in inputs.items() if name in parameters}
        needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        if set(needed) <= set(known) | {"input_ids"}:
            positions, base.rope_deltas = find(input_ids=ids, **known)
            return positions
    return (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)


def _refuse_packed_rows(positions: torch.LongTensor | None) -> None:
    if positions is not None and bool((positions[..., 1:] < positions[..., :-1]).any()):
        raise ValueError(
            "Several rows packed into one cannot have concept tokens: set packing=False and padding_free=False, and "
            "give an attention mask."
        )


def _padding_id(config) -> int:
    text = config.get_text_config()
    ids = (text.pad_token_id, text.eos_token_id, 0)
    ids = [i[0] if isinstance(i, list) else i for i in ids]
    return next(i for i in ids if i is not None and i >= 0)
