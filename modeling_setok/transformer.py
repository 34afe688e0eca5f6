"""The transformer block of token merger and detokenizer: pre-norm, 2D rotary positions, any attention backend."""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Of `place_code`: the image's side in units, and the ratio of the fastest channel's frequency (one radian per unit) to
# the slowest's, which turns by about 90 degrees over an image, so that every channel tells places apart.
IMAGE_EXTENT, PLACE_THETA = 16.0, 10.0


def grid_positions(height: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """(height * width, 2) float32: row and column of every cell in reading order."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([rows, columns], dim=-1).reshape(-1, 2).float()


def rotary_angles(positions: torch.Tensor, dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (N, dim) of axial 2D rotary positions (Heo et al., 2024).

    Half the channel pairs turn with the row, half with the column, at frequencies theta^(-k / (dim / 4)).
    """
    frequencies = theta ** -(torch.arange(dim // 4, device=positions.device, dtype=torch.float32) / (dim // 4))
    angles = (positions[:, :, None] * frequencies).flatten(1)  # (N, dim / 2)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turns channel pairs (k, k + dim/2) of x (..., N, dim) by the angles of each position; keeps x's dtype."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


def place_code(
    vector: torch.Tensor, height: int, width: int, grid_sizes: torch.LongTensor | None = None
) -> torch.Tensor:
    """(height * width, dim) float32: `vector` (dim,), turned by each cell's place in the image.

    Places are fractions of the image, so that the code means the same on grids of different size. With `grid_sizes`
    (B, 2), the grids of images that stand at the top left of a padded grid: (B, height * width, dim).
    """
    cells = torch.tensor([height, width], device=vector.device) if grid_sizes is None else grid_sizes[:, None, :]
    places = (grid_positions(height, width, device=vector.device) + 0.5) / cells * IMAGE_EXTENT
    angles = rotary_angles(places.reshape(-1, 2), vector.shape[-1], PLACE_THETA)
    return rotate(vector.float(), *angles).unflatten(0, places.shape[:-1])


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain softmax attention; the mask, if any, is bool (True = attend) or additive."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def attend_segments(
    attend,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_counts: torch.LongTensor,
    key_counts: torch.LongTensor,
    longest: tuple[int, int],
) -> torch.Tensor:
    """Flash attention within segments of packed sequences: `query` (1, heads, Q, dim), `key` and `value` (1, heads, K,
    dim) are S segments each, one after the other, of `query_counts` (S,) and `key_counts` (S,).

    `longest`: no segment of queries, none of keys, is longer. Returns (1, Q, heads, dim).
    """
    ends_q, ends_k = (
        nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32) for counts in (query_counts, key_counts)
    )
    output, _ = attend(
        module, query, key, value, None, scaling=module.scaling,
        cu_seq_lens_q=ends_q, cu_seq_lens_k=ends_k, max_length_q=longest[0], max_length_k=longest[1],
    )  # fmt: skip
    return output


def attend_real_keys(
    attend, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, key_mask: torch.Tensor
) -> torch.Tensor:
    """Flash attention of all queries (B, heads, Q, dim) to the keys (B, heads, K, dim) that `key_mask` (B, K) marks.

    Flash attention knows no mask but packed sequences. (transformers would pack the queries by the keys' mask, too,
    which is right only where both are the same sequence.) Returns (B, Q, heads, dim).
    """
    batch, heads, length, _ = query.shape
    key_mask = key_mask.to(torch.bool)
    key, value = (x.transpose(1, 2)[key_mask].transpose(0, 1)[None] for x in (key, value))
    query = query.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None]
    key_counts = key_mask.sum(1)
    query_counts = torch.full_like(key_counts, length)
    longest = (length, key_mask.shape[1])
    output = attend_segments(attend, module, query, key, value, query_counts, key_counts, longest)
    return output.unflatten(1, (batch, length))[0]


class SetokAttention(nn.Module):
    """Multi-head attention of a sequence to itself or to `key_value_states`, with optional rotary positions.

    It runs at the width `inner_size`, by default that of the sequence.
    """

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config, hidden_size: int, inner_size: int | None = None):
        super().__init__()
        inner_size = inner_size or hidden_size
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (inner_size // self.num_heads) ** -0.5
        self.q_proj = nn.Linear(hidden_size, inner_size)
        self.k_proj = nn.Linear(hidden_size, inner_size)
        self.v_proj = nn.Linear(hidden_size, inner_size)
        self.out_proj = nn.Linear(inner_size, hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        packing=None,
        value_states: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`packing` (a `ClusterPacking`) restricts attention to clusters of a packed sequence, in place of a mask.

        `attention_mask` is what transformers makes for the implementation: with flash attention, of the keys (B, K).
        `value_states` are attended to in place of `key_value_states`, which then only say where to look.
        """
        source = hidden_states if key_value_states is None else key_value_states
        values = source if value_states is None else value_states
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, hidden_states), (self.k_proj, source), (self.v_proj, values))
        )
        if rotary is not None:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
        implementation, weights = self.config._attn_implementation, None
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        if packing is not None:
            output = packing.attend(attend, self, query, key, value)
        elif "flash" in implementation and attention_mask is not None:
            output = attend_real_keys(attend, self, query, key, value, attention_mask)
        else:
            output, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling)
        return self.out_proj(output.flatten(2)), weights


class SetokMLP(nn.Module):
    def __init__(self, config, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class SetokBlock(GradientCheckpointingLayer):
    """Pre-norm transformer layer: self-attention, cross-attention to `context` where asked for, MLP."""

    def __init__(self, config, cross_attention: bool = False):
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn_norm = nn.LayerNorm(size, eps=eps)
        self.self_attn = SetokAttention(config, size)
        if cross_attention:
            self.cross_attn_norm = nn.LayerNorm(size, eps=eps)
            self.cross_attn = SetokAttention(config, size)
        self.mlp_norm = nn.LayerNorm(size, eps=eps)
        self.mlp = SetokMLP(config, size, config.intermediate_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        context: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        packing=None,
    ) -> torch.Tensor:
        attended, _ = self.self_attn(
            self.self_attn_norm(hidden_states), attention_mask=attention_mask, rotary=rotary, packing=packing
        )
        hidden_states = hidden_states + attended
        if context is not None:
            attended, _ = self.cross_attn(
                self.cross_attn_norm(hidden_states), key_value_states=context, attention_mask=context_mask
            )
            hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))
