"""Ways to reduce tokens: examples by hand, and what all of them promise."""

import math

import pytest
import torch

from modeling_setok import TokenClusters, cluster_tokens
from modeling_setok.density_peaks import unit_directions
from tests.blobs import blobs
from training.evaluation.token_reductions import (
    REDUCTIONS,
    bipartite_merging,
    concept_tokens,
    density_peaks_fixed,
    grid_pooling,
    k_means,
    random_patches,
)

each = pytest.mark.parametrize("name", REDUCTIONS)
each_exact = pytest.mark.parametrize("name", [name for name in REDUCTIONS if name != "grid_pooling"])
each_partition = pytest.mark.parametrize("name", [name for name in REDUCTIONS if name != "random_patches"])
each_blind_to_places = pytest.mark.parametrize("name", ["concept_tokens", "k_means", "density_peaks_fixed"])


def at_angles(*degrees: float) -> torch.Tensor:
    """(1, N, 2) unit vectors."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=-1)[None]


def runs_of_blobs(*sizes: int, noise: float = 0.02) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, N, 8) patches, each near the axis of its group, and the groups (N,): the first `sizes[0]` are 0 and so on."""
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    generator = torch.Generator().manual_seed(0)
    return (torch.eye(8)[groups] + noise * torch.randn(len(groups), 8, generator=generator))[None], groups


def assert_same_groups(cluster_ids: torch.Tensor, groups: torch.Tensor) -> None:
    assert torch.equal(cluster_ids[:, None] == cluster_ids, groups[:, None] == groups)


def assert_consistent(clusters: TokenClusters, valid: torch.Tensor) -> None:
    """Each token holds the patch that stands for it, tokens are in ascending order of these, and none is empty."""
    num_tokens = clusters.num_tokens
    assert clusters.cluster_ids.dtype == num_tokens.dtype == clusters.centers.dtype == torch.long
    assert clusters.centers.shape == (len(valid), int(num_tokens.max()))
    assert torch.equal(clusters.scores, torch.zeros(valid.shape))
    assert (clusters.cluster_ids[~valid] == -1).all()
    for ids, centers, count in zip(clusters.cluster_ids, clusters.centers, num_tokens.tolist(), strict=True):
        assert ids[ids >= 0].unique().tolist() == list(range(count))
        assert ids[centers[:count]].tolist() == list(range(count)) and centers[:count].diff().gt(0).all()
        assert (centers[count:] == -1).all()


# ------------------------------------------------------------------------------------------- what all promise


@each_exact
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_counts_are_honoured_exactly(name, dtype):
    x = blobs(4, 36, 16).to(dtype)
    for counts in (1, 7, 36, torch.tensor([36, 1, 5, 20])):
        clusters = REDUCTIONS[name](x, counts)
        assert_consistent(clusters, torch.ones(4, 36, dtype=torch.bool))
        assert clusters.num_tokens.tolist() == torch.as_tensor(counts).expand(4).tolist()


@each_exact
@pytest.mark.parametrize("kinds", [1, 2])
def test_counts_are_honoured_where_patches_are_equal(name, kinds):
    """A constant image, one of two values, and one of zeros."""
    x = blobs(1, kinds, 8).repeat(1, 12 // kinds, 1)
    for features in (x, 0 * x):
        clusters = REDUCTIONS[name](features, 5)
        assert_consistent(clusters, torch.ones(1, 12, dtype=torch.bool))
        assert clusters.num_tokens.tolist() == [5]


@each_partition
def test_as_many_tokens_as_patches_change_nothing(name):
    clusters = REDUCTIONS[name](blobs(2, 16, 8), 16)
    assert clusters.cluster_ids.tolist() == clusters.centers.tolist() == [list(range(16))] * 2


@each
def test_an_image_has_the_same_tokens_alone_and_in_a_batch_with_padding(name):
    x = blobs(3, 36, 16)
    valid = torch.ones(3, 36, dtype=torch.bool)
    valid[1, 25:] = False  # padding on the right, and on the left
    valid[2, :20] = False
    x[~valid] = torch.nan
    counts = torch.tensor([9, 4, 12])
    together = REDUCTIONS[name](x, counts, patch_mask=valid)
    assert_consistent(together, valid)
    for image, count in enumerate(counts.tolist()):
        own = valid[image]
        alone = REDUCTIONS[name](x[image, own][None], count)
        assert torch.equal(together.cluster_ids[image, own], alone.cluster_ids[0])
        places = own.cumsum(0)[together.centers[image, : int(together.num_tokens[image])]] - 1
        assert torch.equal(places, alone.centers[0])


@each
def test_every_call_gives_the_same(name):
    x = blobs(2, 36, 16)
    torch.manual_seed(1)
    first = REDUCTIONS[name](x, 6)
    torch.manual_seed(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        second = REDUCTIONS[name](x, 6)
    assert all(torch.equal(*fields) for fields in zip(first, second, strict=True))


@each
def test_bad_arguments_are_refused(name):
    reduce, x = REDUCTIONS[name], torch.randn(2, 9, 4)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 4:] = False
    for counts in (0, 10, torch.tensor([1, 0]), torch.tensor([10, 1])):
        with pytest.raises(ValueError, match="counts must be from 1"):
            reduce(x, counts)
    with pytest.raises(ValueError, match=r"\[9, 4\], got \[9, 5\]"):
        reduce(x, torch.tensor([9, 5]), patch_mask=mask)
    for counts in (torch.tensor([1, 2, 3]), 2.0, torch.ones(2, 2, dtype=torch.long)):
        with pytest.raises(ValueError, match="counts must be an integer"):
            reduce(x, counts)
    with pytest.raises(ValueError, match="patch_mask must be"):
        reduce(x, 2, patch_mask=mask[:1])
    for features in (x[0], x.long()):
        with pytest.raises(ValueError, match="features must be float"):
            reduce(features, 2)
    with pytest.raises(ValueError, match="NaN or inf"):
        reduce(x.masked_fill(mask[..., None], torch.inf), 2)


@pytest.mark.parametrize("name", ["concept_tokens", "k_means", "bipartite_merging", "density_peaks_fixed"])
def test_obvious_groups_are_found(name):
    x, groups = runs_of_blobs(5, 4, 4, 3)
    clusters = REDUCTIONS[name](x, 4)
    assert clusters.cluster_ids[0].tolist() == groups.tolist()


@each_blind_to_places
def test_obvious_groups_are_found_wherever_they_lie(name):
    x, groups = runs_of_blobs(9, 4, 2, 6)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(0))
    clusters = REDUCTIONS[name](x[:, order], 4)
    assert_same_groups(clusters.cluster_ids[0], groups[order])


# --------------------------------------------------------------------------------------------------- each alone


def test_grid_of_four_by_four_to_four_cells():
    clusters = grid_pooling(torch.randn(1, 16, 3), 4)
    assert clusters.cluster_ids.reshape(4, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert clusters.centers.tolist() == [[0, 2, 8, 10]]  # of an even side the first of the two in the middle


@pytest.mark.parametrize(
    ("grid_size", "count", "cells"),
    [
        ((6, 6), 1, (1, 1)),
        ((6, 6), 3, (1, 2)),  # thirds are 3 : 1
        ((6, 6), 5, (2, 2)),
        ((6, 6), 7, (2, 3)),
        ((6, 6), 12, (3, 4)),  # squarer than (2, 6)
        ((3, 6), 4, (1, 4)),  # 3 x 1.5 patches; (2, 2) has cells of 1.5 x 3, as elongated
        ((6, 3), 2, (2, 1)),
        ((1, 9), 1, (1, 1)),  # nothing else can be had
        ((1, 9), 2, (1, 2)),
    ],
)
def test_cells_of_a_grid_are_many_and_near_to_square(grid_size, count, cells):
    rows, columns = grid_size
    clusters = grid_pooling(torch.randn(1, rows * columns, 2), count, grid_size=grid_size)
    ids = clusters.cluster_ids.reshape(grid_size)
    assert (ids[:, 0].unique().numel(), ids[0].unique().numel()) == cells
    assert clusters.num_tokens.tolist() == [math.prod(cells)]


def test_each_image_may_have_its_own_grid():
    valid = torch.ones(2, 16, dtype=torch.bool)
    valid[1, 8:] = False
    clusters = grid_pooling(torch.randn(2, 16, 2), 2, patch_mask=valid, grid_size=torch.tensor([[2, 8], [4, 2]]))
    assert clusters.cluster_ids[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1] * 2
    assert clusters.cluster_ids[1].tolist() == [0, 0, 0, 0, 1, 1, 1, 1] + [-1] * 8


@pytest.mark.parametrize("grid_size", [None, (2, 5), (-2, -4), torch.tensor([[2, 4]] * 3), (2, 2, 2)])
def test_a_grid_that_does_not_fit_is_refused(grid_size):
    with pytest.raises(ValueError, match="grid_size must be"):
        grid_pooling(torch.randn(2, 8, 3), 2, grid_size=grid_size)


def test_random_patches_are_drawn_evenly_and_nested():
    x = torch.randn(600, 20, 3, generator=torch.Generator().manual_seed(0))
    few, more = (random_patches(x, count).cluster_ids >= 0 for count in (5, 12))
    assert (few.sum(1) == 5).all() and not (few & ~more).any()
    share = few.float().mean(0)  # a standard error of .018
    assert (share - 0.25).abs().max() < 0.07
    assert few.unique(dim=0).shape[0] > 500  # not the same for all images
    assert not torch.equal(few, random_patches(x, 5, seed=1).cluster_ids >= 0)


def test_random_patches_of_low_precision_are_not_the_same_for_all_images():
    x = torch.randn(50, 20, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert random_patches(x, 5).centers.unique(dim=0).shape[0] > 40


def test_k_means_is_where_lloyd_comes_to_rest():
    """No patch is nearer to another cluster's mean, and the patch that stands for a cluster is the nearest to its."""
    x = blobs(3, 64, 16, noise=1.0)
    clusters = k_means(x, torch.tensor([3, 8, 20]))
    directions, _ = unit_directions(x)
    for image, count in enumerate([3, 8, 20]):
        ids = clusters.cluster_ids[image]
        means = torch.stack([directions[image, ids == token].mean(0) for token in range(count)])
        distances = torch.cdist(directions[image], means)
        assert torch.equal(distances.argmin(1), ids)
        nearest = distances.masked_fill(ids[:, None] != torch.arange(count), torch.inf).amin(0)
        of_centers = distances[clusters.centers[image, :count], torch.arange(count)]
        torch.testing.assert_close(of_centers, nearest, rtol=0, atol=1e-5)


def test_of_a_pair_the_first_stands_for_it():
    """Both are as far from their mean: round-off decides nothing."""
    x = torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(0))
    x = x.repeat_interleave(2, dim=1) + 0.3 * torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(1))
    clusters = k_means(x, 20)
    pairs = clusters.cluster_ids[0].bincount() == 2
    assert pairs.sum() >= 10
    first = [(clusters.cluster_ids[0] == token).nonzero()[0].item() for token in range(20)]
    assert torch.equal(clusters.centers[0, pairs], torch.tensor(first)[pairs])


def test_k_means_compares_directions_and_follows_its_seed():
    x = blobs(1, 64, 16, noise=2.0)
    lengths = 2.0 ** torch.randint(-6, 6, (1, 64, 1), generator=torch.Generator().manual_seed(0))
    angles = at_angles(0, 4, 90, 94, 180, 184)
    scaled = angles * lengths[:, :6]
    assert k_means(scaled, 3).cluster_ids.tolist() == [[0, 0, 1, 1, 2, 2]]
    assert not torch.equal(k_means(x, 12).cluster_ids, k_means(x, 12, seed=1).cluster_ids)


def test_merging_takes_the_most_similar_pair_first():
    x = at_angles(0, 30, 90, 95)
    clusters = bipartite_merging(x, 3)
    assert clusters.cluster_ids.tolist() == [[0, 1, 2, 2]]
    assert clusters.centers.tolist() == [[0, 1, 3]]  # patch 2 went to patch 3
    assert bipartite_merging(x, 2).cluster_ids.tolist() == [[0, 0, 1, 1]]


def test_pairs_of_one_side_do_not_merge():
    """0 and 2 are equal, but both propose."""
    assert bipartite_merging(at_angles(0, 60, 0, 100), 3).cluster_ids.tolist() == [[0, 0, 1, 2]]


def test_at_most_half_of_the_tokens_merge_at_once():
    """Patches 0 and 2 go to 1 and 3, though 1 and 3 are nearest; one round more takes these together."""
    x = at_angles(0, 40, 90, 41)
    assert bipartite_merging(x, 2, num_rounds=1).cluster_ids.tolist() == [[0, 0, 1, 1]]
    assert bipartite_merging(x, 1, num_rounds=1).centers.tolist() == [[3]]


def merged(x: torch.Tensor, count: int, num_rounds: int) -> list[list[int]]:
    """ToMe with loops in float64, with running means and sizes: the patches of each token."""
    tokens = [([patch], patch, vector) for patch, vector in enumerate(x.double())]  # patches, place, mean
    quota = math.ceil((len(x) - count) / num_rounds)
    while len(tokens) > count:
        pairs = []
        for a in range(0, len(tokens), 2):
            cosines = [torch.cosine_similarity(tokens[a][2], tokens[b][2], dim=0) for b in range(1, len(tokens), 2)]
            best = max(range(len(cosines)), key=cosines.__getitem__)
            pairs.append((float(cosines[best]), a, 2 * best + 1))
        pairs = sorted(pairs, reverse=True)[: min(quota, len(tokens) // 2, len(tokens) - count)]
        for _, a, b in pairs:
            patches, place, mean = tokens[b]
            size, other = len(patches), len(tokens[a][0])
            tokens[b] = (patches + tokens[a][0], place, (size * mean + other * tokens[a][2]) / (size + other))
        gone = {a for _, a, _ in pairs}
        tokens = [token for index, token in enumerate(tokens) if index not in gone]
    return [sorted(patches) for patches, _, _ in tokens]


@pytest.mark.parametrize("num_rounds", [1, 3, 24])
def test_merging_agrees_with_running_means(num_rounds):
    x = blobs(2, 41, 8, noise=0.8)
    for count in (3, 12, 30):
        clusters = bipartite_merging(x, count, num_rounds=num_rounds)
        for image in range(2):
            ids = clusters.cluster_ids[image]
            tokens = [(ids == token).nonzero().flatten().tolist() for token in range(count)]
            assert tokens == merged(x[image], count, num_rounds)


def test_density_peaks_fixed_by_hand():
    """K 1: the first three have density exp(-1), the others exp(-2.25); ties are broken by the place, so that 0 is the
    densest, with the greatest distance 11.5. Then 3 has exp(-2.25) * 8, then 1 and 2 exp(-1) * 1, then 4."""
    x = torch.tensor([0, 1, 2, 10, 11.5])[None, :, None]
    two, three = (density_peaks_fixed(x, count, num_neighbors=1) for count in (2, 3))
    assert two.centers.tolist() == [[0, 3]] and two.cluster_ids.tolist() == [[0, 0, 0, 1, 1]]
    assert three.centers.tolist() == [[0, 1, 3]] and three.cluster_ids.tolist() == [[0, 1, 1, 2, 2]]
    # Repeated features are at the same mean squared distance
    repeated = density_peaks_fixed(x.repeat(1, 1, 7), 3, num_neighbors=1)
    assert repeated.centers.tolist() == three.centers.tolist()


def test_density_peaks_fixed_ranks_densities_below_the_smallest_float():
    """exp(-1e6) * 1000 of patch 1 is more than exp(-2.25e6) * 8000 of patch 3."""
    x = 1000 * torch.tensor([0, 1, 2, 10, 11.5])[None, :, None]
    assert density_peaks_fixed(x, 2, num_neighbors=1).centers.tolist() == [[0, 1]]


@pytest.mark.parametrize("assignment", ["chain", "nearest"])
def test_concept_tokens_are_those_of_the_clustering(assignment):
    x = blobs(3, 64, 16)
    counts = torch.tensor([4, 9, 4])
    clusters = concept_tokens(x, counts, num_neighbors=5, assignment=assignment)
    for image, count in enumerate(counts.tolist()):
        own = cluster_tokens(
            x[image][None], num_neighbors=5, assignment=assignment, fixed_tokens=count, token_order="raster"
        )
        assert torch.equal(clusters.cluster_ids[image], own.cluster_ids[0])
        assert torch.equal(clusters.centers[image, :count], own.centers[0])


@pytest.mark.parametrize(
    ("reduce", "setting"), [(bipartite_merging, "num_rounds"), (density_peaks_fixed, "num_neighbors")]
)
def test_settings_out_of_range_are_refused(reduce, setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1"):
        reduce(torch.randn(1, 4, 2), 2, **{setting: 0})
