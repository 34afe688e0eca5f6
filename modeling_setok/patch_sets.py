"""The patches of a vision-language model's images, as sets that are clustered, and the means of their clusters."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from .density_peaks import TokenClusters, cluster_tokens
from .large_clusters import check_largest_share, split_large_clusters


class PatchSets(NamedTuple):
    """Which of the N patches of a batch, in the order of their placeholders, belong to one image.

    `set_ids` (N,) long, ascending from 0; `places` (N,) long, each patch's place in its set; `sizes` (I,) long.
    """

    set_ids: torch.LongTensor
    places: torch.LongTensor
    sizes: torch.LongTensor

    def padded(self, x: torch.Tensor, value: float = 0) -> torch.Tensor:
        """(I, largest size, ...): what x (N, ...) has for each patch, set by set."""
        rows = x.new_full((len(self.sizes), int(self.sizes.max()), *x.shape[1:]), value)
        rows[self.set_ids, self.places] = x
        return rows


class ConceptMeans(NamedTuple):
    """The concept tokens of a batch of sets, set by set, in the order of their seeds' patches.

    `sets`: the patches; `token_ids` (N,) long, the token of each patch, -1 where it is not finite; `seeds` (T,) long,
    the patch of each token's seed; `sizes` (T,) long, its number of patches; `num_tokens` (I,) long.
    """

    sets: PatchSets
    token_ids: torch.LongTensor
    seeds: torch.LongTensor
    sizes: torch.LongTensor
    num_tokens: torch.LongTensor

    def of(self, features: torch.Tensor) -> torch.Tensor:
        """(T, D), in the features' dtype: their mean (N, D) -> (T, D) over each token's patches, summed in float32."""
        sums = features.new_zeros(len(self.seeds) + 1, features.shape[1], dtype=torch.float32)
        sums = sums.index_add(0, self.token_ids % len(sums), features.float())[:-1]  # -1: the last row
        return (sums / self.sizes[:, None]).to(features.dtype)


def sets_of_patches(
    placeholders: torch.BoolTensor,
    separators: torch.BoolTensor,
    tensor_sizes: list[int] | None,
    *,
    across_tiles: bool,
) -> PatchSets:
    """One set for each image of a batch.

    Args:
        placeholders: (B, T) bool, the places of the N patches in the text.
        separators: (B, T) bool, tokens that may stand between the tiles of one image. Where there is one, an image
            ends at any other token; where there is none, an image is a tensor of the vision model, together with those
            whose placeholders follow without a gap (tiles).
        tensor_sizes: the number of patches in each tensor that the vision model gave; `None` where it gave one for the
            whole batch, in which an image ends where its placeholders do.
        across_tiles: False: each tensor, and each run of placeholders, is a set of its own.
    """
    between = ~(placeholders | separators) if across_tiles else ~placeholders
    between[:, 0] = True  # a row begins with another image
    runs = between.flatten().cumsum(0)[placeholders.flatten()]
    new_run = torch.ones_like(runs, dtype=torch.bool)
    new_run[1:] = runs[1:] != runs[:-1]
    starts = new_run
    if tensor_sizes is not None:
        sizes = torch.tensor(tensor_sizes, device=runs.device)
        tensors = torch.arange(len(sizes), device=runs.device).repeat_interleave(sizes)
        new_tensor = torch.ones_like(new_run)
        new_tensor[1:] = tensors[1:] != tensors[:-1]
        if not across_tiles:
            starts = new_run | new_tensor
        elif not separators.any():
            starts = new_run & new_tensor
    set_ids = starts.cumsum(0) - 1
    sizes = set_ids.bincount()
    places = torch.arange(len(set_ids), device=set_ids.device) - (sizes.cumsum(0) - sizes)[set_ids]
    return PatchSets(set_ids, places, sizes)


def concept_means(features: torch.Tensor, sets: PatchSets, cluster: Callable[..., TokenClusters]) -> ConceptMeans:
    """What `cluster(features (I, N, D), patch_mask=(I, N))` makes of the features (N, D) of each set."""
    valid = sets.padded(torch.ones_like(sets.set_ids, dtype=torch.bool), False)
    clusters = cluster(sets.padded(features.detach()), patch_mask=valid)
    tokens_before = clusters.num_tokens.cumsum(0) - clusters.num_tokens
    patches_before = sets.sizes.cumsum(0) - sets.sizes
    own = clusters.cluster_ids[sets.set_ids, sets.places]
    token_ids = torch.where(own < 0, -1, own + tokens_before[sets.set_ids])
    seeds = (clusters.centers + patches_before[:, None])[clusters.centers >= 0]
    sizes = token_ids[token_ids >= 0].bincount(minlength=len(seeds))
    return ConceptMeans(sets, token_ids, seeds, sizes, clusters.num_tokens)


def concept_clusters(
    features: torch.Tensor,
    patch_mask: torch.BoolTensor,
    *,
    num_neighbors: int | None,
    max_tokens: int | None = None,
    fixed_tokens: int | torch.LongTensor | None = None,
    largest_share: float | None = None,
    **settings,
) -> TokenClusters:
    """`cluster_tokens` in the order of the patches, which language models were trained on.

    num_neighbors: `None` follows each image's number of patches, 6 of 729, at least 4.
    largest_share: in (0, 1], what a cluster may hold of its image's patches, see `split_large_clusters`; not together
        with `fixed_tokens`. `None`: any share.
    """
    check_largest_share(largest_share, fixed_tokens)
    if num_neighbors is None:
        num_neighbors = (patch_mask.sum(1) * 6 / 729).round().long().clamp(min=4)
    clusters = cluster_tokens(
        features,
        patch_mask=patch_mask,
        num_neighbors=num_neighbors,
        max_tokens=max_tokens,
        fixed_tokens=fixed_tokens,
        token_order="raster",
        **settings,
    )
    if largest_share is None:
        return clusters
    return split_large_clusters(
        clusters, features, patch_mask=patch_mask, largest_share=largest_share, max_tokens=max_tokens
    )
