"""Rows of a batch laid end to end for the language model, without padding, each apart from the others."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import is_flash_attention_requested

STATEFUL_LAYERS = frozenset({"conv", "hybrid", "hybrid_sliding", "linear_attention"})  # among transformers' layer_types


@dataclass
class PackedRows:
    """Padded rows (B, T') laid end to end in sequences (S, L), without their padding.

    `source` (S, L) long: the position, in the flattened rows, that each place holds; -1 where a sequence is filled up.
    `position_ids` (S, L) long: they restart at 0 with every row, and at every place that is filled up. By this the
    attention of transformers keeps rows apart, if it gets neither a mask nor a cache.
    `shape`: (B, T').
    """

    source: torch.LongTensor
    position_ids: torch.LongTensor
    shape: tuple[int, int]

    def pack(self, states: torch.Tensor) -> torch.Tensor:
        """States (B, T', hidden) of the rows to those of the sequences (S, L, hidden)."""
        return states.flatten(0, 1)[self.source.to(states.device).clamp(min=0)]

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """States (S, L, hidden) of the sequences to those of the rows (B, T', hidden), zero on their padding."""
        source = self.source.to(states.device)
        rows = states.new_zeros(self.shape[0] * self.shape[1], states.shape[-1])
        return rows.index_copy(0, source[source >= 0], states[source >= 0]).unflatten(0, self.shape)


def packed_rows(attention_mask: torch.Tensor, in_one: bool) -> PackedRows:
    """How the rows of an attention mask (B, T') are packed: in one sequence, or in sequences of the longest row's
    length, for attention that looks at every pair of a sequence and so would pay for its length."""
    real = attention_mask.cpu() != 0
    lengths = real.sum(1).tolist()
    capacity = sum(lengths) if in_one else max(lengths)
    sequences, room = [], []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):  # each goes into the first that has room
        place = next((place for place, free in enumerate(room) if free >= lengths[row]), len(room))
        if place == len(room):
            sequences.append([])
            room.append(capacity)
        sequences[place].append(row)
        room[place] -= lengths[row]
    indices = real.flatten().nonzero()[:, 0].split(lengths)
    source = [torch.cat([indices[row] for row in rows]) for rows in sequences]
    positions = [torch.cat([torch.arange(lengths[row]) for row in rows]) for rows in sequences]
    return PackedRows(
        source=pad_sequence(source, batch_first=True, padding_value=-1),
        position_ids=pad_sequence(positions, batch_first=True),
        shape=tuple(real.shape),
    )


@torch.no_grad()
def check_rows_stay_apart(language_model: PreTrainedModel, embeddings: torch.Tensor) -> None:
    """Runs a language model over three made-up rows, packed and padded: the hidden states must be the same.

    Args:
        embeddings: (..., hidden), whose scale, dtype and device the rows have.

    Raises:
        ValueError: they differ, as where no mask is made of position_ids; or a state goes on from token to token.
    """
    config = language_model.config
    told = (
        f"Rows cannot be packed for the language model {config.model_type} with attn_implementation="
        f'"{config._attn_implementation}": '
    )
    if language_model._is_stateful or not STATEFUL_LAYERS.isdisjoint(getattr(config, "layer_types", None) or ()):
        raise ValueError(f"{told}a state goes from row to row. Leave pack_rows out.")
    in_one = is_flash_attention_requested(config)
    mask = torch.arange(16) < torch.tensor([[16], [12], [3]])  # not in one: the last two share a sequence
    packing, mask = packed_rows(mask, in_one), mask.to(embeddings.device)
    noise = torch.randn(*mask.shape, embeddings.shape[-1], generator=torch.Generator().manual_seed(0))
    rows = (noise.to(embeddings.device) * embeddings.float().std()).to(embeddings.dtype)
    inputs = [
        {"inputs_embeds": rows, "attention_mask": mask.long(), "position_ids": mask.cumsum(1) - 1},
        {"inputs_embeds": packing.pack(rows), "position_ids": packing.position_ids.to(rows.device)},
    ]
    is_single = not in_one and all(parameter.dtype == torch.float32 for parameter in language_model.parameters())
    modes = [(module, module.training) for module in language_model.modules()]
    language_model.eval()  # without dropout
    try:
        with torch.autocast(rows.device.type, enabled=False) if is_single else nullcontext():
            outputs = [language_model(**one, use_cache=False).last_hidden_state.to(rows.device) for one in inputs]
    finally:
        for module, training in modes:
            module.training = training
    expected, got = outputs[0].float()[mask], packing.unpack(outputs[1].float())[mask]
    difference = float(((got - expected).norm(dim=-1) / expected.norm(dim=-1)).max())
    rounding = 1e-4 if is_single and outputs[1].dtype == torch.float32 else 3e-2
    if not difference < rounding:
        raise ValueError(
            f"{told}they see each other, hidden states are off by {difference:.1%}. Leave pack_rows out, or set an "
            "attn_implementation that keeps rows apart by their position_ids."
        )
