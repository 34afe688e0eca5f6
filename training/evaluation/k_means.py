"""k-means of the patches of many images at once, each with its own number of clusters, none of which is empty."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import nn

from modeling_setok.density_peaks import ROUND_OFF

TIE = 1e-5  # squared distances that differ by less are equal: two patches are always as far from their own mean
SMALLEST_WEIGHT = 1e-30  # of a patch that equals one drawn before: drawn only where no other is left


def nearest_to_means(
    directions: torch.Tensor,
    valid: torch.BoolTensor,
    counts: torch.LongTensor,
    draws: Iterator[torch.Tensor],
    *,
    max_iterations: int = 100,
) -> torch.LongTensor:
    """(B, N): the patch that is nearest to the mean of the cluster of each patch, -1 on padding.

    Lloyd's iterations from one k-means++ start. A cluster that runs empty takes over the patch that is farthest from
    the mean of its own, so that there are as many clusters as asked for even where all patches are equal.

    Args:
        directions: (B, N, D) float32, vectors of length 1 or 0.
        valid: (B, N), False on padding. counts: (B,), at most an image's valid patches.
        draws: gives (B, N) numbers of the exponential distribution, as often as there are clusters.
    """
    is_cluster = torch.arange(int(counts.max()), device=directions.device) < counts[:, None]
    starts = _starts(directions, valid, is_cluster.shape[1], draws)
    means = directions.gather(1, starts[..., None].expand(-1, -1, directions.shape[-1]))
    groups = torch.full_like(valid, -1, dtype=torch.long)
    for _ in range(max_iterations):
        last, groups = groups, _nearest_means(directions, means, valid, is_cluster)
        if torch.equal(groups, last):
            break
        means = group_means(directions, groups, is_cluster.shape[1])
    nearest, _ = _nearest_members(_squared_distances(directions, means), groups)
    return nearest.gather(1, groups.clamp(min=0)).masked_fill(~valid, -1)


def group_means(x: torch.Tensor, groups: torch.LongTensor, num_groups: int) -> torch.Tensor:
    """(B, G, D): the mean of the patches of each group; groups (B, N) hold -1 where a patch has none."""
    # By a product: sums that scatter on a GPU have another order, and another last bit, each time
    members = (groups[:, None] == torch.arange(num_groups, device=x.device)[:, None]).to(x.dtype)
    return members @ x / members.sum(-1, keepdim=True).clamp(min=1)


def _starts(
    directions: torch.Tensor, valid: torch.BoolTensor, count: int, draws: Iterator[torch.Tensor]
) -> torch.LongTensor:
    """(B, count) patches, each drawn with its squared distance to the nearest before it as its weight."""
    nearest = torch.full_like(valid, 4, dtype=directions.dtype)
    taken, starts = ~valid, []
    for numbers in islice(draws, count):
        # The least of exponential numbers, each over its weight, is a draw by weight
        start = (numbers / nearest.clamp(min=SMALLEST_WEIGHT)).masked_fill(taken, torch.inf).argmin(-1, keepdim=True)
        starts.append(start)
        taken = taken.scatter(1, start, True)
        chosen = directions.gather(1, start[..., None].expand(-1, -1, directions.shape[-1]))
        nearest = torch.minimum(nearest, _squared_distances(directions, chosen)[..., 0])
    return torch.cat(starts, dim=1)


def _squared_distances(directions: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """(B, N, C) of patches (B, N, D) and means (B, C, D), both of length at most 1; round-off is 0."""
    norms = directions.square().sum(-1)[..., None] + means.square().sum(-1)[:, None]
    distances = norms - 2 * directions @ means.transpose(1, 2)
    return distances.masked_fill(distances < ROUND_OFF, 0)


def _nearest_members(distances: torch.Tensor, groups: torch.LongTensor) -> tuple[torch.LongTensor, torch.BoolTensor]:
    """(B, C) of distances (B, N, C): the nearest patch of each group, and whether the group has any."""
    members = groups[..., None] == torch.arange(distances.shape[-1], device=groups.device)
    own = distances.masked_fill(~members, torch.inf)
    first = (own <= own.amin(dim=1, keepdim=True) + TIE).byte().argmax(dim=1)
    return first, members.any(dim=1)


def _nearest_means(
    directions: torch.Tensor, means: torch.Tensor, valid: torch.BoolTensor, is_cluster: torch.BoolTensor
) -> torch.LongTensor:
    """(B, N) the cluster of each patch, -1 on padding: the nearest, but that none of the clusters is empty."""
    distances = _squared_distances(directions, means).masked_fill(~is_cluster[:, None], torch.inf)
    own, groups = distances.min(dim=-1)
    groups = groups.masked_fill(~valid, -1)
    nearest, filled = _nearest_members(distances, groups)
    empty = is_cluster & ~filled
    # A filled cluster keeps its nearest patch; of the others the farthest go to the empty ones, one each
    patches = groups.shape[1]
    kept = nn.functional.pad(~valid, (0, 1)).scatter(1, torch.where(filled, nearest, patches), True)[:, :patches]
    farthest = own.masked_fill(kept, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    moved = torch.where(empty, farthest.gather(1, (empty.cumsum(1) - 1).clamp(min=0)), patches)
    clusters = torch.arange(empty.shape[1], device=empty.device).expand_as(empty)
    return nn.functional.pad(groups, (0, 1)).scatter(1, moved, clusters)[:, :patches]
