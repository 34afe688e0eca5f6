"""What the diffusion head copies: one visual token that stands before, whole.

Edits and outlines say again what was read. A hidden state tells what comes next, but a token reaches it only by heads
of attention, each a fraction of its width, and small language models hardly learn to say a token again. Here the hidden
state only has to tell which one (pointer networks: Vinyals et al., 2015); a key of a token is made of itself and of the
one before it, so that "what came after this one" is found at once. It is not in the paper.
"""

from typing import NamedTuple

import torch
from torch import nn


class CopySources(NamedTuple):
    """The visual tokens of a batch, `tokens` (m, D) of unit variance; `previous` (m, D), the one before each in its
    image, zero at its start; and `visible` (n, m) bool, those that each of n hidden states may copy."""

    tokens: torch.Tensor
    previous: torch.Tensor
    visible: torch.BoolTensor

    @classmethod
    def of_images(cls, images: list[torch.Tensor], visible: torch.BoolTensor) -> "CopySources":
        """`images`: the tokens (m_i, D) of each. No gradient reaches them, see `DiffusionHead.loss`."""
        images = [tokens.detach() for tokens in images]
        previous = [nn.functional.pad(tokens, (0, 0, 1, 0))[:-1] for tokens in images]
        return cls(torch.cat(images), torch.cat(previous), visible)

    def repeated(self, times: int) -> "CopySources":
        """For hidden states that are repeated as a whole."""
        return self._replace(visible=self.visible.repeat(times, 1))


class CopyAttention(nn.Module):
    """Adds to hidden states (n, condition_dim) the visual token that they ask for, or nothing.

    Args:
        copy_dim: of queries and keys.
        token_dim: D, dimension of a visual token.
        condition_dim: width of the language model.
    """

    def __init__(self, copy_dim: int, token_dim: int, condition_dim: int):
        super().__init__()
        self.query = nn.Linear(condition_dim, copy_dim)
        self.key = nn.Linear(2 * token_dim, copy_dim, bias=False)
        self.nothing = nn.Parameter(torch.zeros(1))  # logit
        self.out = nn.Linear(token_dim, condition_dim, bias=False)

    def forward(self, hidden_states: torch.Tensor, sources: CopySources) -> torch.Tensor:
        tokens = sources.tokens.to(hidden_states)
        keys = self.key(torch.cat([tokens, sources.previous.to(hidden_states)], dim=-1))
        logits = (self.query(hidden_states) @ keys.T).float() / keys.shape[-1] ** 0.5
        logits = logits.masked_fill(~sources.visible.to(logits.device), -torch.inf)
        nothing = self.nothing.float().expand(len(logits), 1)
        weights = torch.cat([logits, nothing], dim=-1).softmax(-1)[:, :-1]
        return hidden_states + self.out(weights.to(tokens.dtype) @ tokens)
