"""Where clusters lie in the picture, and how a token is told."""

import math

import torch
from torch import nn

from .transformer import grid_positions

OCTAVES = (0.25, 0.5, 1, 2, 4)  # waves over the picture, of the code of a centre


def cluster_extents(
    members: torch.Tensor, grid_size: tuple[int, int], grid_sizes: torch.LongTensor | None = None
) -> torch.Tensor:
    """Centre (x, y) and standard deviation (x, y) of the patches of each cluster, in sides of the picture.

    Args:
        members: (B, C, N), how much of each patch belongs to each cluster: bool, or weights of at least 0.
        grid_size: (h, w), N = h * w.
        grid_sizes: (B, 2), with pictures of different size each one's own grid, at the top left of that.

    Returns:
        (B, C, 4) float32; of a cluster without patches, zeros and the spread of a single patch.
    """
    places = grid_positions(*grid_size, device=members.device).flip(1) + 0.5  # (N, 2): x, y
    sides = torch.tensor([grid_size], device=members.device) if grid_sizes is None else grid_sizes
    sides = sides.flip(1).float()[:, None]  # (B or 1, 1, 2): width, height
    places = places / sides
    members = members.float()
    areas = members.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    with torch.autocast(members.device.type, enabled=False):  # variances are small differences of squares
        means, squares = (members @ moment / areas for moment in (places, places.square()))
    variances = (squares - means.square()).clamp(min=0) + 1 / (12 * sides.square())
    return torch.cat([means, variances.sqrt()], dim=-1)


class ExtentEmbedding(nn.Module):
    """Extents (B, C, 4) of clusters to vectors (B, C, D) that are added to their tokens."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.projection = nn.Linear(2 + 2 + 4 * len(OCTAVES), hidden_size)

    def forward(self, extents: torch.Tensor) -> torch.Tensor:
        centres, spreads = extents.split(2, dim=-1)
        angles = (2 * math.pi * centres[..., None] * centres.new_tensor(OCTAVES)).flatten(-2)
        code = torch.cat([4 * (centres - 0.5), (spreads / 0.11).log(), angles.sin(), angles.cos()], dim=-1)
        return self.projection(code.to(self.projection.weight.dtype))
