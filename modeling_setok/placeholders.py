"""One `<image>` in a text becomes the visual tokens of its image: the expanded sequence, and the way back from it.

A placeholder is an `<image>` or a `<mask>`. The compact text (B, T) has each once; in the expanded sequence (B, T') it
stands once per visual token.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from .configuration_setokim import SPECIAL_TOKEN_IDS, SetokimConfig


@dataclass
class ExpandedSequence(ModelOutput):
    """A batch in which every placeholder is repeated once per visual token, padded on the left.

    `input_ids`, `attention_mask`, `position_ids` (B, T'). `compact_positions` (B, T): where each compact position ended
    up, of a placeholder its last visual token. `source_positions` (B, T'): the compact position that each came from.
    `past_mask` (B, past): the attention mask of what a cache holds already.
    `hidden_states` (B, T', hidden): of the language model, once it ran.
    """

    input_ids: torch.LongTensor | None = None
    attention_mask: torch.LongTensor | None = None
    past_mask: torch.LongTensor | None = None
    position_ids: torch.LongTensor | None = None
    compact_positions: torch.LongTensor | None = None
    source_positions: torch.LongTensor | None = None
    hidden_states: torch.FloatTensor | None = None


def find_special_tokens(config: SetokimConfig, inputs_embeds: torch.Tensor, embedding: nn.Module) -> torch.LongTensor:
    """(B, T) long: for embeddings (B, T, hidden) the ids of Setokim's special tokens, -1 wherever there is none.

    `embedding` is the language model's, by which they are recognised.
    """
    ids = torch.tensor([getattr(config, name) for name in SPECIAL_TOKEN_IDS], device=inputs_embeds.device)
    found = torch.full(inputs_embeds.shape[:2], -1, device=inputs_embeds.device)
    for token_id, special in zip(ids, embedding(ids).to(inputs_embeds), strict=True):
        found = torch.where((inputs_embeds == special).all(-1), token_id, found)
    return found


def images_of_placeholders(
    config: SetokimConfig, input_ids: torch.LongTensor, num_images: int, num_masks: int
) -> tuple[torch.LongTensor, torch.BoolTensor]:
    """For each placeholder (I + M,) of compact ids (B, T), in reading order, its image, and whether it is a `<mask>`.

    Raises:
        ValueError: other numbers of images or masks than of their placeholders, or a `<mask>` without an image before
            it in its text.
    """
    is_image, is_mask = input_ids == config.image_token_id, input_ids == config.mask_token_id
    _check_one_each(int(is_image.sum()), num_images)
    seen = is_image.flatten().cumsum(0).unflatten(0, input_ids.shape)  # images up to here, over the whole batch
    before = nn.functional.pad(seen[:-1, -1], (1, 0))[:, None]  # in the rows above
    if bool((is_mask & (seen == before)).any()):
        raise ValueError("A <mask> needs an image before it in its text: the one that it is a mask of.")
    if num_masks != int(is_mask.sum()):
        raise ValueError(
            f"The text has {int(is_mask.sum())} <mask> but {num_masks} masks were given: pass one (H, W) mask for each."
        )
    placeholders = is_image | is_mask
    return seen[placeholders] - 1, is_mask[placeholders]


def expand_placeholders(
    config: SetokimConfig,
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.LongTensor | None,
    counts: list[int],
    past: int = 0,
) -> ExpandedSequence | None:
    """The expanded sequence of a compact text; `None` for one that is expanded already.

    Args:
        input_ids: (B, T).
        attention_mask: (B, past + T), of the compact text as well, after the positions that are in a cache, as they
            are.
        position_ids: (B, T), those of the compact text: an image takes as many positions as it has tokens, and what
            comes after it moves up.
        counts: how many visual tokens each of the I + M placeholders has, in reading order.
        past: positions that a cache holds.

    Raises:
        ValueError: another number of placeholders than of counts, or a mask or positions that are not the text's.
    """
    is_placeholder = (input_ids == config.image_token_id) | (input_ids == config.mask_token_id)
    found = int(is_placeholder.sum())
    if found == sum(counts) and (past or found != len(counts)):
        return None
    _check_one_each(found, len(counts))
    _check_compact(input_ids, attention_mask, position_ids, past)
    if attention_mask is None:
        attention_mask = input_ids.new_ones(len(input_ids), past + input_ids.shape[1])
    past_mask, attention_mask = attention_mask[:, :past], attention_mask[:, past:]
    repeats = torch.ones_like(input_ids)
    repeats[is_placeholder] = torch.tensor(counts, dtype=repeats.dtype, device=repeats.device)
    ends = repeats.cumsum(1)
    lengths = ends[:, -1:]
    total = int(lengths.max())
    shift = total - lengths  # left padding
    positions = torch.arange(total, device=input_ids.device) - shift
    source = torch.searchsorted(ends, positions.contiguous(), right=True).clamp(max=input_ids.shape[1] - 1)
    mask = attention_mask.gather(1, source) * (positions >= 0)
    ids = input_ids.gather(1, source).masked_fill(is_placeholder.gather(1, source), config.image_token_id)
    if position_ids is None:
        position_ids = past_mask.long().sum(1, keepdim=True) + mask.long().cumsum(1) - 1
    else:
        position_ids = position_ids.expand_as(input_ids).gather(1, source) + positions - source
    return ExpandedSequence(
        input_ids=ids.masked_fill(positions < 0, 0),  # whatever stands on padding, it must not look like an image
        attention_mask=mask,
        past_mask=past_mask,
        position_ids=position_ids.clamp(min=0),
        compact_positions=ends - 1 + shift,
        source_positions=source,
    )


def gather_positions(states: torch.Tensor | None, positions: torch.LongTensor) -> torch.Tensor | None:
    """States (B, T, hidden) at positions (B, T'): from the compact text to the expanded sequence, or back."""
    if states is None:
        return None
    positions = positions.to(states.device)
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))


def past_length(past_key_values) -> int:
    """The number of positions that a cache holds."""
    return 0 if past_key_values is None else int(past_key_values.get_seq_length())


def position_limit(text_config) -> int | None:
    """The most positions that a language model's config states; `None` where it states none, or stretches them
    (scaled rotary positions)."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]  # one for each type of layer
    if any(kind.get("rope_type", "default") != "default" for kind in kinds):
        return None
    limit = getattr(text_config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def learned_positions(text_config) -> int | None:
    """The number of positions that a language model has an embedding of; `None` where it computes them."""
    return None if getattr(text_config, "rope_parameters", None) else position_limit(text_config)


def _check_one_each(num_placeholders: int, num_features: int) -> None:
    if num_placeholders != num_features:
        raise ValueError(
            f"Image features and image tokens do not match, tokens: {num_placeholders}, features: {num_features}: the "
            "text needs one <image> for each image."
        )


def _check_compact(input_ids, attention_mask, position_ids, past: int) -> None:
    """Raises unless mask and positions are those of the compact text."""
    expected = (len(input_ids), past + input_ids.shape[1])
    if attention_mask is not None and attention_mask.shape != expected:
        raise ValueError(
            f"With images, attention_mask must be (batch, length) = {expected}, of the {past} positions in the cache "
            f"and the text, got {tuple(attention_mask.shape)}."
        )
    if position_ids is not None and position_ids.shape[-1] != input_ids.shape[1]:
        raise ValueError(
            "position_ids must be those of the text before its images are expanded, (batch, "
            f"{input_ids.shape[1]}), got {tuple(position_ids.shape)}."
        )
    if position_ids is not None:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, past:]
        restarts = (position_ids.expand_as(input_ids).diff() < 0) & (mask[:, 1:] != 0) & (mask[:, :-1] != 0)
        if bool(restarts.any()):
            raise ValueError(
                "position_ids that restart within a text are of several rows, which would see each other once their "
                "images are expanded: give the rows padded, one below the other, and pack_rows=True."
            )
