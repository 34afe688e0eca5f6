"""Which tokens of a text stay when an image's patches become fewer, and the inputs of a model for these alone."""

from typing import Any

import torch

IGNORED = -100  # the label of a position without a loss


class KeptColumns:
    """The columns of a batch of texts (B, T) that stay, moved together.

    Args:
        keep: (B, T) bool, tokens that stay.
        attended: (B, T) bool, False on padding.
        on_the_left: where rows that end shorter than the longest are padded.
    """

    def __init__(self, keep: torch.BoolTensor, attended: torch.BoolTensor, *, on_the_left: bool):
        self.keep = keep & attended
        counts = self.keep.sum(1)
        self.length = int(counts.max())
        order = (self.keep if on_the_left else ~self.keep).long().argsort(dim=1, stable=True)
        self.columns = order[:, -self.length :] if on_the_left else order[:, : self.length]
        self.is_kept = self.keep.gather(1, self.columns)
        # Where each token of the full text finds its state: at the last token before it that stayed
        before = self.keep.long().cumsum(1) - 1 + (self.length - counts[:, None] if on_the_left else 0)
        self.sources = before.clamp(min=0)

    @property
    def num_removed(self) -> int:
        """By how many columns the batch is shorter."""
        return self.keep.shape[1] - self.length

    def short(self, x: torch.Tensor, padding: int = 0) -> torch.Tensor:
        """(..., B, T) -> (..., B, length), with `padding` where a row is shorter."""
        x = x.gather(-1, self.columns.expand(*x.shape[:-1], -1))
        return x.masked_fill(~self.is_kept, padding)

    def short_inputs(self, inputs: dict[str, Any], input_padding: int) -> dict[str, Any]:
        """The inputs with every tensor that has an entry for each token (..., B, T) shortened."""
        padding = {"input_ids": input_padding, "labels": IGNORED}
        per_token = self.keep.shape
        return {
            name: self.short(x, padding.get(name, 0))
            if isinstance(x, torch.Tensor) and x.shape[-2:] == per_token and not x.is_floating_point()
            else x
            for name, x in inputs.items()
        }

    def full(self, states: torch.Tensor) -> torch.Tensor:
        """(B, length, D) -> (B, T, D): each token's state, or that of the last token before it that stayed."""
        return states.gather(1, self.sources[:, :, None].expand(-1, -1, states.shape[-1]).to(states.device))
