"""One `<image>` in a text becomes the visual tokens of its image: the expanded sequence, and the way back from it."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


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


def expand_placeholders(
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.LongTensor | None,
    is_placeholder: torch.BoolTensor,
    counts: torch.LongTensor,
    image_token_id: int,
    past: int = 0,
) -> ExpandedSequence:
    """Repeats each placeholder of a batch (B, T) as often as `counts` (P,), in reading order, says.

    `position_ids` (B, T) are those of the compact text: an image takes as many positions as it has tokens, and what
    comes after it moves up. `attention_mask` (B, past + T) is of the compact text as well, after `past` positions that
    are in a cache, as they are.
    """
    if attention_mask is None:
        attention_mask = input_ids.new_ones(len(input_ids), past + input_ids.shape[1])
    past_mask, attention_mask = attention_mask[:, :past], attention_mask[:, past:]
    repeats = torch.ones_like(input_ids)
    repeats[is_placeholder] = counts
    ends = repeats.cumsum(1)
    lengths = ends[:, -1:]
    total = int(lengths.max())
    shift = total - lengths  # left padding
    positions = torch.arange(total, device=input_ids.device) - shift
    source = torch.searchsorted(ends, positions.contiguous(), right=True).clamp(max=input_ids.shape[1] - 1)
    mask = attention_mask.gather(1, source) * (positions >= 0)
    ids = input_ids.gather(1, source).masked_fill(is_placeholder.gather(1, source), image_token_id)
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


def past_length(past_key_values) -> int:
    """The number of positions that a cache holds."""
    return 0 if past_key_values is None else int(past_key_values.get_seq_length())


def gather_positions(states: torch.Tensor | None, positions: torch.LongTensor) -> torch.Tensor | None:
    """States (B, T, hidden) at positions (B, T')."""
    if states is None:
        return None
    positions = positions.to(states.device)
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))
