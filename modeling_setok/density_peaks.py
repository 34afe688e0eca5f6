"""Density peaks: the clustering of patch embeddings into a variable number of concepts (§2.1, Appendix C.1).

The paper's Eqs. 1-2 put a similarity where density peaks need a distance, and leave the stop condition of Algorithm 1
open. This file and concept_masks.py keep the idea (seeds score high in density x distance-to-a-denser-patch, their
number follows from the image, masks are hard or soft and sum to one) in a form that is deterministic, batched and free
of scale:

* embeddings are compared by their direction, D2_ij = |x_i/|x_i| - x_j/|x_j||^2 in [0, 4];
* r2_i, the mean D2 to the K nearest other patches, is the (inverse) density; ties are broken by the index;
* delta2_i is the smallest D2 to a denser patch, which is i's parent; the densest patch takes its largest D2;
* S, the feature scale, is the mean pairwise D2: of the images seen in calibration, or of the image itself.

D2 is held in blocks of rows (`DistanceRows`), so that memory grows with N and not with its square.

An image has the same tokens alone, in a batch and with padding, but for ties: sums round by their place in a batch,
which moves scores by less than 1e-5 (5e-7 measured), so that only a decision that is closer than that can turn.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

CRITERIA = {"relative": 1.0, "product": 0.5}  # name -> default threshold on the score
RELATIVE_SCALE_WEIGHT = 0.25  # lambda: how far, in units of S, a seed must stand above the noise of its neighbourhood
MIN_FEATURE_SCALE = 1e-3  # below it an image is treated as constant: its differences are round-off
ROUND_OFF = 1e-6  # squared distances below it are round-off of the dot product
# Elements of an image's D2 that are held at once, 8 MiB in float32: up to 1448 patches (38 x 38) it is held whole and
# computed once; above, in blocks of rows that are computed anew for the density and for the parents.
BLOCK_ELEMENTS = 2**21


class TokenClusters(NamedTuple):
    """A partition of the patches of each image.

    `cluster_ids` (B, N) long: index of the token that a patch belongs to, -1 where the patch is padding or not finite.
    `num_tokens` (B,) long: number of tokens of each image, at least 1.
    `centers` (B, C) long, C = the batch's largest number of tokens: patch index of each token's seed, -1 as padding.
    `scores` (B, N) float32: seed score of every patch, comparable with the criterion's threshold; 0 on padding.
    """

    cluster_ids: torch.LongTensor
    num_tokens: torch.LongTensor
    centers: torch.LongTensor
    scores: torch.FloatTensor


def clusters_of_seeds(seeds: torch.LongTensor) -> TokenClusters:
    """The clusters of seeds (B, N), the patch that is the seed of each patch (its own of a seed), -1 where it has none:
    in ascending order of the seeds, with scores of 0."""
    size = seeds.shape[1]
    indices = torch.arange(size, device=seeds.device)
    is_seed = seeds == indices
    num_tokens = is_seed.sum(-1)
    cluster_ids = (is_seed.cumsum(-1) - 1).gather(1, seeds.clamp(min=0)).masked_fill(seeds < 0, -1)
    centers = torch.where(is_seed, indices, size).sort(dim=-1).values[:, : int(num_tokens.max())]
    scores = torch.zeros_like(seeds, dtype=torch.float32)
    return TokenClusters(cluster_ids, num_tokens, centers.masked_fill(centers == size, -1), scores)


def cluster_tokens(
    patch_embeddings: torch.Tensor,
    *,
    num_neighbors: int | torch.LongTensor = 6,
    criterion: str = "relative",
    threshold: float | None = None,
    scale: float | torch.Tensor | None = None,
    patch_mask: torch.Tensor | None = None,
    assignment: str = "chain",
    max_tokens: int | None = 64,
    fixed_tokens: int | torch.LongTensor | None = None,
    token_order: str = "score",
) -> TokenClusters:
    """Partitions the patches of each image around its density peaks.

    Args:
        patch_embeddings: (B, N, Dv), any float dtype; distances are computed in float32.
        num_neighbors: K of Eq. 1. The size in patches of the smallest object that may get a token of its own; about
            6 * N / 729, at least 4. A number, or one for each image (B,).
        criterion: `"relative"`: a seed's score sqrt(delta2 / (r2 + S/4)) exceeds 1. `"product"` (the paper's rho *
            delta): exp(-r2/S) * sqrt(delta2/S) exceeds 0.5. The densest patch is always a seed.
        threshold: takes the place of the criterion's own 1 or 0.5.
        scale: S, a number or a tensor that broadcasts to (B,); `None` or 0 means each image's own.
        patch_mask: (B, N) bool, False on padding. Patches with NaN or inf are treated as padding.
        assignment: `"chain"`: a patch follows its parents to a seed. `"nearest"`: it goes to the nearest seed.
        max_tokens: at most this many seeds, the best scores, are kept; `None`: all.
        fixed_tokens: if given, the number of seeds in place of criterion and max_tokens, or one for each image (B,)
            (the ablation of Table 5; fewer where an image has fewer patches).
        token_order: `"score"`: by descending seed score, the paper's order of selection. `"raster"`: by the patch index
            of the seed. `"top_down"`: the token with most patches first, as a rule the ground, then by the mean place
            of their patches in reading order; it changes least where a picture changes a little.

    Raises:
        ValueError: an argument is out of range, or an image has no valid patch.
    """
    _check_arguments(
        patch_embeddings, patch_mask, num_neighbors, criterion, assignment, max_tokens, fixed_tokens, token_order
    )
    threshold = CRITERIA[criterion] if threshold is None else threshold
    with torch.no_grad(), torch.autocast(patch_embeddings.device.type, enabled=False):
        directions, valid = unit_directions(patch_embeddings, patch_mask)
        distances = DistanceRows(directions)
        image_scale = resolve_scale(scale, directions, valid)[:, None]  # (B, 1)
        spread, rank = _density(distances, valid, num_neighbors)
        separation, parent, densest = _separation(distances, valid, rank)
        if criterion == "relative":
            scores = (separation / (spread + RELATIVE_SCALE_WEIGHT * image_scale)).sqrt()
        else:
            scores = torch.exp(-spread / image_scale) * (separation / image_scale).sqrt()
        scores = scores.masked_fill(~valid, 0)
        centers, num_tokens = _select_seeds(
            scores,
            candidates=valid if fixed_tokens is not None else valid & (scores > threshold),
            densest=densest,
            limit=fixed_tokens if fixed_tokens is not None else max_tokens or valid.shape[1],
            token_order=token_order,
        )
        cluster_ids = _assign(centers, distances, parent, assignment).masked_fill(~valid, -1)
        if token_order == "top_down":
            centers, cluster_ids = _from_top_to_bottom(centers, cluster_ids, valid)
    return TokenClusters(cluster_ids, num_tokens, centers, scores)


def unit_directions(
    patch_embeddings: torch.Tensor, patch_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors (B, N, Dv) in float32 and the valid patches (B, N) bool; zero vectors and padding stay zero."""
    x = patch_embeddings.float()
    valid = valid_patches(x, patch_mask)
    x = torch.where(valid[..., None], x, 0)
    peak = x.detach().abs().amax(dim=-1, keepdim=True)
    x = x / torch.where(peak > 0, peak, 1)  # squares neither over- nor underflow
    # A vector's length is now at least 1, or 0: the floor of 1 keeps the gradient of zero vectors finite
    return nn.functional.normalize(x, dim=-1, eps=1.0), valid


def valid_patches(x: torch.Tensor, patch_mask: torch.Tensor | None = None) -> torch.BoolTensor:
    """(B, N) bool: patches of x (B, N, Dv) that are finite and, where there is a mask (B, N), not padding."""
    valid = x.isfinite().all(dim=-1)
    return valid if patch_mask is None else valid & patch_mask.to(device=valid.device, dtype=torch.bool)


def mean_length(x: torch.Tensor, valid: torch.BoolTensor) -> torch.Tensor:
    """(B,) float32: mean length of the valid patches of each image of x (B, N, Dv)."""
    lengths = torch.where(valid[..., None], x, 0).float().norm(dim=-1)
    return lengths.sum(-1) / valid.sum(-1).clamp(min=1)


def feature_scale(directions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """S (B,): the mean pairwise D2 of each image's unit vectors, which is twice their total variance."""
    count = valid.sum(-1).clamp(min=1)
    mean_norm = directions.square().sum(-2).sum(-1) / count  # patches first: padding is added as zeros
    mean_direction = directions.sum(-2) / count[:, None]
    return (2 * (mean_norm - mean_direction.square().sum(-1))).clamp(min=MIN_FEATURE_SCALE)


def resolve_scale(scale: float | torch.Tensor | None, directions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """S (B,): the given scale where it is set (non-zero), each image's own elsewhere."""
    own = feature_scale(directions, valid)
    if scale is None:
        return own
    if isinstance(scale, int | float) and scale < 0:
        raise ValueError(f"scale must not be negative, got {scale}.")
    scale = torch.as_tensor(scale, dtype=own.dtype, device=own.device).expand_as(own)
    return torch.where(scale > 0, scale.clamp(min=MIN_FEATURE_SCALE), own)


class DistanceRows:
    """D2 (B, N, N) of unit vectors (B, N, Dv) in blocks of rows: exactly symmetric over all blocks, with a zero
    diagonal and no round-off near zero. Every pass over it gives the same bits.

    The blocks depend on N alone, not on the batch. What rounds is the product of a block with another: it is computed
    in one order only, the earlier times the later, and is transposed for the rows of the later.
    """

    def __init__(self, directions: torch.Tensor):
        num_patches = directions.shape[1]
        rows = num_patches
        if num_patches**2 > BLOCK_ELEMENTS:
            rows = max(16, BLOCK_ELEMENTS // num_patches // 16 * 16)
        # Rows of whole cache lines: a product's rounding depends on alignment, which differs over the images of a batch
        directions = nn.functional.pad(directions, (0, -directions.shape[-1] % 16))
        self.blocks = directions.split(rows, dim=1)
        self.norms = directions.square().sum(-1)
        self.whole = self._rows(0) if len(self.blocks) == 1 else None

    def for_rows(
        self, compute: Callable[[torch.Tensor, torch.LongTensor], tuple[torch.Tensor, ...]]
    ) -> list[torch.Tensor]:
        """What `compute` makes of a block of rows D2 (B, R, N), whose indices are (R,), as tensors (B, R, ...): put
        together, (B, N, ...). It must not change the rows."""
        indices = torch.arange(self.norms.shape[1], device=self.norms.device).split(self.blocks[0].shape[1])
        results = [compute(self._rows(i) if self.whole is None else self.whole, rows) for i, rows in enumerate(indices)]
        return [torch.cat(result, dim=1) for result in zip(*results, strict=True)]

    def _rows(self, index: int) -> torch.Tensor:
        own, rows = self.blocks[index], self.blocks[0].shape[1]
        own_norms = self.norms.split(rows, dim=1)[index]
        distances = own_norms[:, :, None] + self.norms[:, None, :]
        for place, (tile, other) in enumerate(zip(distances.split(rows, dim=2), self.blocks, strict=True)):
            gram = other @ own.transpose(1, 2) if place < index else own @ other.transpose(1, 2)
            transposed = gram.transpose(1, 2)
            if place == index:
                gram = torch.maximum(gram, transposed)
            tile.sub_(transposed if place < index else gram, alpha=2)
        distances.masked_fill_(distances < ROUND_OFF, 0)
        distances.diagonal(index * rows, dim1=1, dim2=2).zero_()
        return distances


def _density(
    distances: DistanceRows, valid: torch.BoolTensor, num_neighbors: int | torch.LongTensor
) -> tuple[torch.Tensor, torch.LongTensor]:
    """r2 (B, N), the mean D2 to the K nearest other patches, and the rank (B, N) of each patch by it, 0 the densest."""
    batch, num_patches = valid.shape
    indices = torch.arange(num_patches, device=valid.device)
    of_each = isinstance(num_neighbors, torch.Tensor)
    most = max(min(int(num_neighbors.max()) if of_each else num_neighbors, num_patches - 1), 1)
    counted = torch.arange(most, device=valid.device) < (num_neighbors[:, None, None] if of_each else num_neighbors)

    def mean_of_nearest(rows: torch.Tensor, own: torch.LongTensor) -> tuple[torch.Tensor]:
        others = valid[:, None, :] & (own[:, None] != indices)
        nearest = rows.masked_fill(~others, torch.inf)
        nearest = nearest.topk(most, largest=False).values
        found = nearest.isfinite() & counted
        return (nearest.masked_fill(~found, 0).sum(-1) / found.sum(-1).clamp(min=1),)

    (spread,) = distances.for_rows(mean_of_nearest)
    by_density = spread.masked_fill(~valid, torch.inf).argsort(dim=-1, stable=True)
    rank = torch.empty_like(by_density).scatter_(1, by_density, indices.expand(batch, -1))
    return spread, rank


def _separation(
    distances: DistanceRows, valid: torch.BoolTensor, rank: torch.LongTensor
) -> tuple[torch.Tensor, torch.LongTensor, torch.BoolTensor]:
    """delta2 (B, N), the D2 to the nearest denser patch; that patch, the parent (B, N); which patch is the densest."""

    def nearest_denser(rows: torch.Tensor, own: torch.LongTensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        denser = (rank[:, None, :] < rank[:, own, None]) & valid[:, None, :]
        separation, parent = rows.masked_fill(~denser, torch.inf).min(dim=-1)
        return separation, parent, rows.masked_fill(~valid[:, None, :], 0).amax(dim=-1)

    separation, parent, farthest = distances.for_rows(nearest_denser)
    densest = (rank == 0) & valid
    separation = torch.where(densest, farthest, separation).masked_fill(~valid, 0)
    return separation, parent, densest


def _select_seeds(
    scores: torch.Tensor,
    *,
    candidates: torch.Tensor,
    densest: torch.Tensor,
    limit: int | torch.LongTensor,
    token_order: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keeps the `limit` best candidates, the densest patch always among them; returns centers (B, C), counts (B,)."""
    # The densest patch is where every chain ends, so it stays a seed whatever its score
    key = scores.masked_fill(~candidates, -torch.inf).masked_fill(densest, torch.inf)
    key, chosen = key.sort(dim=-1, descending=True, stable=True)
    place = torch.arange(key.shape[1], device=key.device)
    kept = (key > -torch.inf) & (place < torch.as_tensor(limit, device=key.device).reshape(-1, 1))
    num_tokens = kept.sum(-1)
    if not bool((num_tokens > 0).all()):
        empty = (num_tokens == 0).nonzero().flatten().tolist()
        raise ValueError(
            f"Images {empty} of the batch have no valid patch: every patch is masked out or holds NaN or inf. "
            "Check the pixel values and the vision encoder's precision."
        )
    order = chosen if token_order == "raster" else -scores.gather(1, chosen)
    order = order.to(torch.float32).masked_fill(~kept, torch.inf).argsort(dim=-1, stable=True)
    centers = chosen.masked_fill(~kept, -1).gather(1, order)
    return centers[:, : int(num_tokens.max())], num_tokens


def _assign(
    centers: torch.LongTensor, distances: DistanceRows, parent: torch.LongTensor, assignment: str
) -> torch.LongTensor:
    """The token (B, N) of every patch: that of the seed at the end of its chain of parents, or of the nearest seed."""
    batch, num_patches = parent.shape
    indices = torch.arange(num_patches, device=centers.device)
    # Every seed points to itself; token_of_seed maps its patch index to its place among the tokens
    is_token = centers >= 0
    slots = torch.arange(centers.shape[1], device=centers.device).expand_as(centers)
    token_of_seed = torch.full((batch, num_patches + 1), -1, device=centers.device)  # last column takes the padding
    token_of_seed.scatter_(1, torch.where(is_token, centers, num_patches), slots)
    token_of_seed = token_of_seed[:, :num_patches]
    if assignment == "chain":
        pointer = torch.where(token_of_seed >= 0, indices, parent)
        for _ in range(max(1, math.ceil(math.log2(num_patches)))):  # pointer doubling
            pointer = pointer.gather(1, pointer)
        return token_of_seed.gather(1, pointer)
    seeds = centers.clamp(min=0)[:, None, :]
    (to_seeds,) = distances.for_rows(lambda rows, _: (rows.gather(2, seeds.expand(-1, rows.shape[1], -1)),))
    nearest_seed = to_seeds.masked_fill(~is_token[:, None, :], torch.inf).argmin(dim=-1)
    return torch.where(token_of_seed >= 0, token_of_seed, nearest_seed)


def _from_top_to_bottom(
    centers: torch.LongTensor, cluster_ids: torch.LongTensor, valid: torch.BoolTensor
) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Centers and cluster ids of the same tokens in the order `"top_down"`. Places count valid patches alone, so that
    padding changes nothing."""
    slots = torch.arange(centers.shape[1], device=centers.device)
    members = cluster_ids[:, None] == slots[:, None]  # (B, C, N)
    sizes, places = members.sum(-1), valid.cumsum(-1)
    key = (members * places[:, None]).sum(-1) / sizes.clamp(min=1)
    largest = (sizes * len(slots) - slots).argmax(-1, keepdim=True)  # of several the first
    key = key.masked_fill(sizes == 0, torch.inf).scatter(1, largest, 0.0)
    order = key.argsort(dim=-1, stable=True)
    moved = order.argsort(dim=-1).gather(1, cluster_ids.clamp(min=0))
    return centers.gather(1, order), torch.where(cluster_ids < 0, cluster_ids, moved)


def _check_arguments(
    patch_embeddings: torch.Tensor,
    patch_mask: torch.Tensor | None,
    num_neighbors: int | torch.LongTensor,
    criterion: str,
    assignment: str,
    max_tokens: int | None,
    fixed_tokens: int | None,
    token_order: str,
) -> None:
    if patch_embeddings.ndim != 3 or patch_embeddings.shape[1] == 0 or not patch_embeddings.is_floating_point():
        raise ValueError(
            "patch_embeddings must be a float tensor (batch, patches, dim) with at least one patch, got "
            f"{tuple(patch_embeddings.shape)} {patch_embeddings.dtype}."
        )
    if patch_mask is not None and patch_mask.shape != patch_embeddings.shape[:2]:
        raise ValueError(
            f"patch_mask must be (batch, patches) = {tuple(patch_embeddings.shape[:2])}, got {tuple(patch_mask.shape)}."
        )
    for name, value, allowed in (
        ("criterion", criterion, tuple(CRITERIA)),
        ("assignment", assignment, ("chain", "nearest")),
        ("token_order", token_order, ("score", "raster", "top_down")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")
    fewest = int(num_neighbors.min()) if isinstance(num_neighbors, torch.Tensor) else num_neighbors
    fixed = int(fixed_tokens.min()) if isinstance(fixed_tokens, torch.Tensor) else fixed_tokens
    for name, value in (("num_neighbors", fewest), ("max_tokens", max_tokens), ("fixed_tokens", fixed)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
