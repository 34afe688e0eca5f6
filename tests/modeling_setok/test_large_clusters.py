"""Clusters of a bounded share of their image: what is split, how, and what it does not depend on."""

import pytest
import torch

from modeling_setok import TokenClusters, cluster_tokens
from modeling_setok.configuration_adaption import ConceptTokenSettings
from modeling_setok.density_peaks import unit_directions
from modeling_setok.large_clusters import split_large_clusters
from modeling_setok.patch_sets import concept_clusters

SHARES = pytest.mark.parametrize("share", [0.5, 0.25, 0.1])


def scenes(batch: int = 4, patches: int = 100, seed: int = 0) -> torch.Tensor:
    """(B, N, 16): two thirds are a ground that drifts from patch to patch, the rest two things."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.eye(16)
    place = torch.arange(patches) / patches
    drift = torch.stack([place, (9 * place).sin(), (4 * place).cos()], dim=-1) @ axes[:3]
    ground = place < 2 / 3
    x = torch.where(ground[:, None], axes[4] + 0.15 * drift, 2 * axes[torch.where(place < 0.8, 6, 8)])
    return x + 0.02 * torch.randn(batch, patches, 16, generator=generator)


def raster(x: torch.Tensor, patch_mask: torch.Tensor | None = None) -> TokenClusters:
    return cluster_tokens(x, patch_mask=patch_mask, token_order="raster")


def sizes(clusters: TokenClusters) -> list[list[int]]:
    return [ids[ids >= 0].bincount().tolist() for ids in clusters.cluster_ids]


def assert_same(got: TokenClusters, expected: TokenClusters) -> None:
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def by_definition(x: torch.Tensor, clusters: TokenClusters, share: float) -> torch.Tensor:
    """The cluster of each patch of one image (N, D), as its seed, by loops over rounds, clusters and patches."""
    directions, _ = unit_directions(x[None])
    distances = torch.cdist(directions[0].double(), directions[0].double()).square()
    seeds = clusters.centers[0][clusters.cluster_ids[0]].tolist()
    large = True
    while large:
        large = [seed for seed in set(seeds) if seeds.count(seed) > share * len(x)]
        for seed in large:
            members = [patch for patch, own in enumerate(seeds) if own == seed]
            pole = max(members, key=lambda patch: distances[seed, patch])
            other = max(members, key=lambda patch: distances[pole, patch])
            for near, far in ((pole, other), (other, pole)):
                half = [patch for patch in members if distances[near, patch] < distances[far, patch]]
                best = max(half, key=lambda patch: clusters.scores[0, patch])
                for patch in half:
                    seeds[patch] = best
    return torch.tensor(seeds)


@SHARES
def test_equals_the_definition(share):
    x = scenes()
    clusters = split_large_clusters(raster(x), x, largest_share=share)
    for image in range(len(x)):
        own = clusters.centers[image][clusters.cluster_ids[image]]
        assert torch.equal(own, by_definition(x[image], raster(x[image : image + 1]), share))


@SHARES
def test_no_cluster_is_larger_and_those_that_were_small_stay(share):
    x = scenes()
    before = raster(x)
    after = split_large_clusters(before, x, largest_share=share)
    assert all(max(own) > 50 for own in sizes(before))
    assert all(max(own) <= share * 100 for own in sizes(after))
    assert torch.equal(after.scores, before.scores)
    for image, count in enumerate(after.num_tokens.tolist()):
        centers = after.centers[image, :count]
        assert centers.diff().gt(0).all() and after.centers[image, count:].eq(-1).all()
        assert after.cluster_ids[image, centers].tolist() == list(range(count))
        small = before.cluster_ids[image].bincount() <= share * 100
        for token in small.nonzero().flatten().tolist():
            members = before.cluster_ids[image] == token
            seed = before.centers[image, token]
            assert torch.equal(after.cluster_ids[image] == after.cluster_ids[image, seed], members)
            assert seed in centers


def test_a_share_that_none_exceeds_changes_nothing():
    x = scenes()
    assert_same(split_large_clusters(raster(x), x, largest_share=1.0), raster(x))


@SHARES
@pytest.mark.parametrize("max_tokens", [None, 5])
def test_an_image_has_the_same_tokens_alone_in_a_batch_and_with_padding(share, max_tokens):
    """The share is of the patches that are no padding, wherever that is and whatever it holds."""
    x = scenes()
    valid = torch.rand(4, 140, generator=torch.Generator().manual_seed(1)).argsort(-1).argsort(-1) < 100
    padded = torch.full((4, 140, 16), torch.nan)
    padded[valid] = x.flatten(0, 1)
    options = {"num_neighbors": None, "max_tokens": max_tokens, "largest_share": share}
    together = concept_clusters(padded, valid, **options)
    for image in range(4):
        alone = concept_clusters(x[image : image + 1], torch.ones(1, 100, dtype=torch.bool), **options)
        count = int(alone.num_tokens)
        assert together.num_tokens[image] == count
        assert torch.equal(together.cluster_ids[image, valid[image]], alone.cluster_ids[0])
        places = valid[image].nonzero().flatten()
        assert torch.equal(together.centers[image, :count], places[alone.centers[0]])
    assert (together.cluster_ids[~valid] == -1).all()


def test_equal_patches_stay_together():
    x = torch.eye(16)[torch.tensor([0] * 60 + [1] * 30 + [2] * 10)][None]
    clusters = split_large_clusters(raster(x), x, largest_share=0.2)
    assert sizes(clusters) == [[60, 30, 10]]
    one_token = raster(x)._replace(
        cluster_ids=torch.zeros(1, 100, dtype=torch.long),
        num_tokens=torch.ones(1, dtype=torch.long),
        centers=torch.zeros(1, 1, dtype=torch.long),
    )
    assert sizes(split_large_clusters(one_token, x, largest_share=0.2)) == [[60, 30, 10]]


def test_max_tokens_wins_and_the_largest_are_split_first():
    x = scenes()
    free = split_large_clusters(raster(x), x, largest_share=0.05)
    assert free.num_tokens.min() > 12
    for limit in (3, 5, 12):
        clusters = split_large_clusters(raster(x), x, largest_share=0.05, max_tokens=limit)
        assert clusters.num_tokens.tolist() == [limit] * 4
    assert sizes(raster(x)) == [[67, 13, 20]] * 4
    one_more = split_large_clusters(raster(x), x, largest_share=0.05, max_tokens=4)
    assert [own[-2:] for own in sizes(one_more)] == [[13, 20]] * 4


@pytest.mark.parametrize("share", [0, -0.1, 1.5])
def test_shares_out_of_range_are_refused(share):
    x = scenes()
    with pytest.raises(ValueError, match="largest_share must be above 0 and at most 1"):
        split_large_clusters(raster(x), x, largest_share=share)
    with pytest.raises(ValueError, match="largest_share must be above 0 and at most 1"):
        ConceptTokenSettings(largest_share=share)


def test_a_number_of_tokens_leaves_no_room_for_a_share():
    x = scenes()
    with pytest.raises(ValueError, match="give one of the two"):
        ConceptTokenSettings(largest_share=0.5, fixed_tokens=4)
    with pytest.raises(ValueError, match="give one of the two"):
        concept_clusters(x, torch.ones(4, 100).bool(), num_neighbors=None, largest_share=0.5, fixed_tokens=4)
