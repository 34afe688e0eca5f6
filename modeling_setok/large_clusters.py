"""A bound on the share of an image's patches that one cluster may hold.

The background is often one cluster of most patches. Attention can be told its weight (size_aware_attention.py), but its
mean says little of so many patches.
"""

import torch

from .density_peaks import DistanceRows, TokenClusters, clusters_of_seeds, unit_directions


def split_large_clusters(
    clusters: TokenClusters,
    patch_embeddings: torch.Tensor,
    *,
    largest_share: float,
    patch_mask: torch.Tensor | None = None,
    max_tokens: int | None = None,
) -> TokenClusters:
    """Splits clusters in two, again and again, until none holds more than a share of its image's patches.

    A cluster has two poles: the patch that is farthest from its seed, and the patch that is farthest from that one.
    Each patch goes to the nearer pole, and of each half the patch with the best seed score is the seed. So a cluster
    comes apart where it is widest, and seeds are no outliers; an additional seed alone would mostly break off a few
    odd patches in each round. Where all patches of a cluster are equal, it stays.

    Args:
        clusters: what `cluster_tokens` makes of the same embeddings.
        patch_embeddings, patch_mask: see `cluster_tokens`.
        largest_share: in (0, 1], of the patches that are valid.
        max_tokens: there are never more: where it leaves no room, clusters stay large, the largest being split first.

    Returns:
        Tokens in the order of their seeds' patches, with the scores of `clusters`.

    Raises:
        ValueError: largest_share is out of range.
    """
    check_largest_share(largest_share)
    with torch.no_grad(), torch.autocast(patch_embeddings.device.type, enabled=False):
        directions, valid = unit_directions(patch_embeddings, patch_mask)
        distances = DistanceRows(directions)
        patches = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        # The seed of each patch. Padding is its own: a cluster of one, which is never split
        seeds = torch.where(valid, clusters.centers.gather(1, clusters.cluster_ids.clamp(min=0)), patches)
        most = largest_share * valid.sum(-1, keepdim=True)
        while True:
            sizes = torch.zeros_like(seeds).scatter_add_(1, seeds, torch.ones_like(seeds)).gather(1, seeds)
            to_seed = _distances_to(distances, seeds)
            pole = _best_of_cluster(to_seed, seeds)
            splits = (sizes > most) & (to_seed.gather(1, pole) > 0)
            if max_tokens is not None:
                is_seed = (seeds == patches) & valid
                largest_first = (sizes * (is_seed & splits)).argsort(dim=-1, descending=True, stable=True)
                room = max_tokens - is_seed.sum(-1, keepdim=True)
                splits &= (largest_first.argsort(dim=-1) < room).gather(1, seeds)
            if not splits.any():
                return clusters_of_seeds(seeds.masked_fill(~valid, -1))._replace(scores=clusters.scores)
            to_pole = _distances_to(distances, pole)
            other = _best_of_cluster(to_pole, seeds)
            nearer = torch.where(_distances_to(distances, other) < to_pole, other, pole)
            halves = torch.where(splits, nearer, seeds)
            seeds = torch.where(splits, _best_of_cluster(clusters.scores, halves), seeds)


def check_largest_share(largest_share: float | None, fixed_tokens: int | torch.LongTensor | None = None) -> None:
    """Raises a `ValueError` where it is out of range, or beside a number of tokens that it would change."""
    if largest_share is None:
        return
    if not 0 < largest_share <= 1:
        raise ValueError(f"largest_share must be above 0 and at most 1, got {largest_share}.")
    if fixed_tokens is not None:
        raise ValueError("largest_share adds tokens to those that fixed_tokens counts: give one of the two.")


def _distances_to(distances: DistanceRows, others: torch.LongTensor) -> torch.Tensor:
    """(B, N): D2 of each patch to another (B, N)."""
    (to_others,) = distances.for_rows(lambda rows, own: (rows.gather(2, others[:, own, None]),))
    return to_others[..., 0]


def _best_of_cluster(keys: torch.Tensor, cluster: torch.LongTensor) -> torch.LongTensor:
    """(B, N): of each patch, the patch of its cluster with the largest of the keys (B, N), of several the first.

    cluster: (B, N), the same for patches of one cluster: one of their patches.
    """
    size = keys.shape[1]
    largest = torch.full_like(keys, -torch.inf).scatter_reduce_(1, cluster, keys, "amax").gather(1, cluster)
    patches = torch.arange(size, device=keys.device).masked_fill(keys < largest, size)
    return torch.full_like(cluster, size).scatter_reduce_(1, cluster, patches, "amin").gather(1, cluster)
