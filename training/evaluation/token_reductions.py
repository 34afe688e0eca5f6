"""Ways to make an image's patches a given number of tokens: concept tokens, and those that they are compared with.

Each takes the features (B, N, D) of any float dtype and `counts`, the number of tokens: one for all images, or one for
each (B,). It gives `TokenClusters`: `cluster_ids` are -1 where a patch is dropped or padding, `centers` hold the patch
that stands for each token, in ascending order, and `scores` are 0. `patch_mask` (B, N) is False on padding, which may
be anywhere and hold anything. Distances are those of unit vectors, but for `density_peaks_fixed`, in float32.

Every call gives the same tokens, and an image has the same alone, in a batch and with padding, but for ties: see
modeling_setok/density_peaks.py. What is drawn at random follows the features of the image and `seed`.

All raise ValueError where a count is below 1 or above the image's number of patches, where shapes do not fit, and where
a patch holds NaN or inf.
"""

import functools
from collections.abc import Callable, Iterator

import torch

from modeling_setok.density_peaks import DistanceRows, TokenClusters, clusters_of_seeds, unit_directions
from modeling_setok.patch_sets import concept_clusters
from training.evaluation.k_means import group_means, nearest_to_means

MOST_ASPECT = 2  # of the cells of a grid, where fewer than that can be had
# Numbers of one draw, in which each image has its place; a prime, so that its key's low bits are not all that counts
DRAWN = 65537
SMALLEST = 1e-30  # distance, in place of 0, that has a logarithm

Counts = int | torch.LongTensor
Mask = torch.BoolTensor | None


def _in_float32(reduction: Callable[..., TokenClusters]) -> Callable[..., TokenClusters]:
    @functools.wraps(reduction)
    def without_autocast(features: torch.Tensor, *args, **kwargs) -> TokenClusters:
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return reduction(features, *args, **kwargs)

    return without_autocast


@_in_float32
def concept_tokens(
    features: torch.Tensor, counts: Counts, *, patch_mask: Mask = None, num_neighbors: int | None = None, **settings
) -> TokenClusters:
    """Density peaks as they make concept tokens; the patches of the best scores are seeds, and stand for them.

    num_neighbors, settings: see `concept_clusters` and `cluster_tokens`.
    """
    x, counts, valid = _checked(features, counts, patch_mask)
    clusters = concept_clusters(x, valid, num_neighbors=num_neighbors, fixed_tokens=counts, **settings)
    return clusters._replace(scores=torch.zeros_like(clusters.scores))


@_in_float32
def grid_pooling(
    features: torch.Tensor,
    counts: Counts,
    *,
    patch_mask: Mask = None,
    grid_size: tuple[int, int] | torch.LongTensor | None = None,
) -> TokenClusters:
    """Rectangles of the patch grid, whose middle patches stand for them. There may be FEWER tokens than `counts`.

    There are as many rows and columns of cells as make the most cells, at most `counts`, of an aspect of at most 2 : 1;
    of several such, the squarest. Where no number of cells has that aspect, the least elongated are taken.

    grid_size: (rows, columns) of patches, one for all images or one for each (B, 2). `None`: each image is square.
    """
    _, counts, valid = _checked(features, counts, patch_mask)
    height, width = _grid_sizes(grid_size, valid).unbind(-1)
    rows = torch.arange(1, int(height.max()) + 1, device=valid.device)[:, None]
    columns = torch.arange(1, int(width.max()) + 1, device=valid.device)
    sides = height[:, None, None] * columns, width[:, None, None] * rows  # of a cell, times the number of cells
    aspect = torch.maximum(*sides) / torch.minimum(*sides)
    merit = torch.where(aspect <= MOST_ASPECT, rows * columns - aspect.log2() / 2, -aspect)
    fits = (rows <= height[:, None, None]) & (columns <= width[:, None, None])
    fits &= rows * columns <= counts[:, None, None]
    best = merit.masked_fill(~fits, -torch.inf).flatten(1).argmax(-1)
    places = _places(valid).clamp(min=0)
    row = _middle_of_cell(places // width[:, None], height[:, None], (best // len(columns) + 1)[:, None])
    column = _middle_of_cell(places % width[:, None], width[:, None], (best % len(columns) + 1)[:, None])
    patches = (~valid).byte().argsort(dim=-1, stable=True)  # of each place
    return clusters_of_seeds(patches.gather(1, row * width[:, None] + column).masked_fill(~valid, -1))


@_in_float32
def random_patches(features: torch.Tensor, counts: Counts, *, patch_mask: Mask = None, seed: int = 0) -> TokenClusters:
    """Patches drawn at random; all others are dropped. Those of a smaller count are among those of a larger."""
    x, counts, valid = _checked(features, counts, patch_mask)
    numbers = next(_random_numbers(x, valid, seed))
    kept = _ranks(numbers.masked_fill(~valid, torch.inf)) < counts[:, None]
    return clusters_of_seeds(torch.where(kept, _indices(valid), -1))


@_in_float32
def k_means(features: torch.Tensor, counts: Counts, *, patch_mask: Mask = None, seed: int = 0) -> TokenClusters:
    """Lloyd's k-means from one k-means++ start; the patch nearest to a cluster's mean stands for it."""
    x, counts, valid = _checked(features, counts, patch_mask)
    directions, _ = unit_directions(x, valid)
    return clusters_of_seeds(nearest_to_means(directions, valid, counts, _random_numbers(x, valid, seed)))


@_in_float32
def bipartite_merging(
    features: torch.Tensor, counts: Counts, *, patch_mask: Mask = None, num_rounds: int = 24
) -> TokenClusters:
    """Token merging (ToMe, Bolya et al. 2023, section 3), of the features alone.

    In each round the tokens, in ascending order of the patches that stand for them, are alternately proposers and
    acceptors. A proposer's partner is the acceptor of the greatest cosine; the pairs of the greatest cosine merge, and
    the acceptor's patch stands for both. A token is the mean of all of its patches.

    num_rounds: the same number of pairs merge in each, as in the layers of a ViT-L. At most half of the tokens can
        merge at once: there are more rounds where these do not reach the count.
    """
    x, counts, valid = _checked(features, counts, patch_mask)
    if num_rounds < 1:
        raise ValueError(f"num_rounds must be at least 1, got {num_rounds}.")
    indices = _indices(valid)
    stands_for = indices.masked_fill(~valid, -1)
    alive = valid
    merges_of_round = (valid.sum(-1) - counts + num_rounds - 1) // num_rounds
    while True:
        num_tokens = alive.sum(-1)
        num_merges = torch.minimum(num_tokens - counts, num_tokens // 2).minimum(merges_of_round)
        if not num_merges.any():
            return clusters_of_seeds(stands_for)
        directions, _ = unit_directions(group_means(x, stands_for, x.shape[1]), alive)
        proposes, accepts = alive & (_places(alive) % 2 == 0), alive & (_places(alive) % 2 == 1)
        distance, partner = DistanceRows(directions).for_rows(
            lambda rows, _, accepts=accepts: rows.masked_fill(~accepts[:, None], torch.inf).min(dim=-1)
        )
        merges = _ranks(distance.masked_fill(~proposes, torch.inf)) < num_merges[:, None]
        into = torch.where(merges, partner, indices)
        stands_for = into.gather(1, stands_for.clamp(min=0)).masked_fill(~valid, -1)
        alive = alive & ~merges


@_in_float32
def density_peaks_fixed(
    features: torch.Tensor, counts: Counts, *, patch_mask: Mask = None, num_neighbors: int = 5
) -> TokenClusters:
    """DPC-KNN with a given number of clusters, as Chat-UniVi merges tokens (Jin et al. 2024), of the features as they
    are: density exp(-d2), d2 the mean squared distance / D to the K nearest other patches; the patches with the
    largest density * distance to the nearest denser patch are seeds, and every patch goes to the nearest seed.
    """
    x, counts, valid = _checked(features, counts, patch_mask)
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}.")
    # Not by a matrix product, whose round-off would follow the longest vectors
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / x.shape[-1] ** 0.5
    distances = distances.masked_fill(~valid[:, None], torch.inf)
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    nearest = distances.masked_fill(itself, torch.inf).topk(min(num_neighbors, x.shape[1]), largest=False).values
    found = nearest.isfinite()
    spread = nearest.square().masked_fill(~found, 0).sum(-1) / found.sum(-1).clamp(min=1)
    rank = _ranks(spread.masked_fill(~valid, torch.inf))
    separation = distances.masked_fill(rank[:, None] >= rank[..., None], torch.inf).amin(-1)
    farthest = distances.masked_fill(~valid[:, None], 0).amax(-1)
    separation = torch.where(rank == 0, farthest, separation)
    score = separation.clamp(min=SMALLEST).log() - spread  # of the product: the density of long vectors would be 0
    is_seed = _ranks((-score).masked_fill(~valid, torch.inf)) < counts[:, None]
    nearest_seed = distances.masked_fill(~is_seed[:, None], torch.inf).argmin(-1)
    return clusters_of_seeds(torch.where(is_seed, _indices(valid), nearest_seed).masked_fill(~valid, -1))


REDUCTIONS: dict[str, Callable[..., TokenClusters]] = {
    reduction.__name__: reduction
    for reduction in (concept_tokens, grid_pooling, random_patches, k_means, bipartite_merging, density_peaks_fixed)
}


def _checked(
    features: torch.Tensor, counts: Counts, patch_mask: Mask
) -> tuple[torch.Tensor, torch.LongTensor, torch.BoolTensor]:
    """The features in float32, 0 on padding; the count of each image (B,); which patches are not padding (B, N)."""
    if features.ndim != 3 or not features.is_floating_point():
        raise ValueError(f"features must be float (batch, patches, dim), got {tuple(features.shape)} {features.dtype}.")
    shape = features.shape[:2]
    if patch_mask is not None and patch_mask.shape != shape:
        raise ValueError(f"patch_mask must be (batch, patches) = {tuple(shape)}, got {tuple(patch_mask.shape)}.")
    valid = features.new_ones(shape, dtype=torch.bool) if patch_mask is None else patch_mask.to(features.device).bool()
    x = torch.where(valid[..., None], features, 0).float()
    if not x.isfinite().all():
        raise ValueError("features hold NaN or inf (in float32): check the model's precision, or mask these patches.")
    counts = torch.as_tensor(counts, device=x.device)
    if counts.is_floating_point() or counts.shape not in ((), shape[:1]):
        raise ValueError(f"counts must be an integer, or integers (batch,) = ({shape[0]},), got {counts.tolist()}.")
    sizes = valid.sum(-1)
    if ((counts < 1) | (counts > sizes)).any():
        raise ValueError(f"counts must be from 1 to each image's patches, {sizes.tolist()}, got {counts.tolist()}.")
    return x, counts.long().expand(shape[0]), valid


def _indices(mask: torch.BoolTensor) -> torch.LongTensor:
    return torch.arange(mask.shape[1], device=mask.device).expand_as(mask)


def _places(mask: torch.BoolTensor) -> torch.LongTensor:
    """(B, N): the place of each patch of the mask among those of its image."""
    return mask.cumsum(-1) - 1


def _ranks(keys: torch.Tensor) -> torch.LongTensor:
    """(B, N): the place of each key in ascending order, equal keys in the order of their patches."""
    return keys.argsort(dim=-1, stable=True).argsort(dim=-1)


def _grid_sizes(grid_size: tuple[int, int] | torch.LongTensor | None, valid: torch.BoolTensor) -> torch.LongTensor:
    """(B, 2): rows and columns of each image's patches."""
    num_patches = valid.sum(-1)
    if grid_size is None:
        sizes = num_patches.sqrt().round().long()[:, None].expand(-1, 2)
    else:
        sizes = torch.as_tensor(grid_size, device=valid.device)
    if sizes.shape not in ((2,), (len(valid), 2)) or (sizes < 1).any() or (sizes.prod(-1) != num_patches).any():
        raise ValueError(
            f"grid_size must be (rows, columns) of the images' {num_patches.tolist()} patches, got {grid_size}: "
            "give one for each image, (batch, 2), where their grids differ. It can be left out where all are square."
        )
    return sizes.expand(len(valid), 2)


def _middle_of_cell(
    place: torch.LongTensor, num_places: torch.LongTensor, num_cells: torch.LongTensor
) -> torch.LongTensor:
    """Of a row (or column) of patches: the middle one of the rows of its cell, (B, N)."""
    cell = place * num_cells // num_places
    first, after = (-(-(cell + step) * num_places // num_cells) for step in (0, 1))  # rounded up
    return (first + after - 1) // 2


def _random_numbers(x: torch.Tensor, valid: torch.BoolTensor, seed: int) -> Iterator[torch.Tensor]:
    """Draws of numbers (B, N) of the exponential distribution, which follow each image's features and the seed."""
    # Sums of integers are exact in any order: an image has the same key in every batch and on every device
    keys = x.view(torch.int32).sum((1, 2))[:, None]
    generator = torch.Generator().manual_seed(seed)
    while True:
        numbers = torch.empty(DRAWN).exponential_(generator=generator).to(x.device)
        yield numbers[(keys + _places(valid)) % DRAWN]
