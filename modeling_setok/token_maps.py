"""Token maps: each concept token unfolds into a little map of features, laid over the picture where the token belongs.

A cell of a coarse grid would have to learn each object once for every place in which it can lie; a map that is moved
and stretched as a whole is learned once (spatial transformers: Jaderberg et al., 2015; AIR: Eslami et al., 2016). It
is not in the paper, whose CNN paints cells.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .cluster_extents import cluster_extents

REACH = 2.2  # a map covers this many standard deviations around its token's centre; a filled square has sqrt(3)
TYPICAL_SPREAD = 0.11  # of the picture's side, where training starts


class TokenMaps(nn.Module):
    """Concept tokens (B, C, D) to features (B, S * S, F) of a canvas of S x S places over the picture.

    An MLP tells where each token lies, another unfolds it into a map of K x K knots of F features each and an outline.
    Here S is `size`, F is `channels`, and K is `config.map_size`.
    """

    def __init__(self, config, token_dim: int, size: int, channels: int):
        super().__init__()
        self.map_size, self.size = config.map_size, size
        width = config.map_hidden_size
        self.extent = nn.Sequential(nn.Linear(token_dim, width), ACT2FN[config.hidden_act], nn.Linear(width, 4))
        self.unfold = nn.Sequential(
            nn.Linear(token_dim, width), ACT2FN[config.hidden_act],
            nn.Linear(width, width), ACT2FN[config.hidden_act],
            nn.Linear(width, config.map_size**2 * (channels + 1)),
        )  # fmt: skip

    def extents(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, C, 4) float32: centre (x, y) and spread (x, y) that tokens tell, as `cluster_extents` gives them."""
        told = self.extent(tokens).float()
        return torch.cat([0.5 + told[..., :2], TYPICAL_SPREAD * told[..., 2:].clamp(-4, 4).exp()], dim=-1)

    def extent_error(self, tokens: torch.Tensor, cluster_ids: torch.LongTensor) -> torch.Tensor:
        """Mean error () of the extents that tokens tell, in sixteenths of the picture, squared near zero (Huber);
        `cluster_ids` (B, S, S)."""
        size, slots = cluster_ids.shape[-1], torch.arange(tokens.shape[1], device=cluster_ids.device)
        members = cluster_ids.flatten(1)[:, None] == slots[:, None]
        extents, found = cluster_extents(members, (size, size)), members.any(-1)
        return nn.functional.smooth_l1_loss(16 * self.extents(tokens)[found], 16 * extents[found], beta=0.25)

    def forward(self, tokens: torch.Tensor, placement: torch.Tensor) -> torch.Tensor:
        """
        Args:
            tokens: (B, C, D).
            placement: logits (B, S * S, C) float32 of which token a place belongs to; the lowest float hides a token.
                A map's outline is added to them.

        Returns:
            (B, S * S, F), in the type of the tokens: what each place reads of all maps, by the softmax of its logits.
        """
        maps = self.unfold(tokens).unflatten(-1, (self.map_size, -1))  # (B, C, K, K * (F + 1))
        across, down = self._readers(self.extents(tokens))
        rows = (down.to(maps.dtype) @ maps).unflatten(-1, (self.map_size, -1))  # (B, C, S, K, F + 1)
        outline = rows[..., -1] @ across.to(maps.dtype).transpose(2, 3)  # (B, C, S, S)
        shares = (placement.unflatten(1, (self.size, self.size)) + outline.permute(0, 2, 3, 1)).softmax(-1)
        # Reading along x and adding up the tokens is one product over (C, K): no canvas of every token is made
        readers = (shares[..., None] * across.transpose(1, 2)[:, None]).to(maps.dtype).flatten(3)  # (B, S, S, C * K)
        rows = rows[..., :-1].transpose(1, 2).flatten(2, 3)  # (B, S, C * K, F)
        return (readers @ rows).flatten(1, 2)

    def _readers(self, extents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (B, C, S, K) float32, across and down, with which each place reads the knots of a map: linear between
        two knots; beyond the last one a map fades to nothing within the distance of another."""
        places = (torch.arange(self.size, device=extents.device) + 0.5) / self.size
        knots = torch.linspace(-1, 1, self.map_size, device=extents.device)
        centres, spreads = extents.transpose(1, 2).unflatten(1, (2, 2)).unbind(1)  # (B, 2, C) each
        on_map = (places - centres[..., None]) / (REACH * spreads[..., None])  # (B, 2, C, S)
        weights = (1 - (on_map[..., None] - knots).abs() * (self.map_size - 1) / 2).clamp(min=0)
        return weights.unbind(1)
