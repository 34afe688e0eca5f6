"""Density peaks: the stated invariants, on random and degenerate inputs, against a slow reference."""

import math

import numpy as np
import pytest
import torch

from modeling_setok import TokenClusters, cluster_tokens, density_peaks
from modeling_setok.density_peaks import DistanceRows, feature_scale, unit_directions
from tests.blobs import blobs

MODES = [(criterion, assignment) for criterion in ("relative", "product") for assignment in ("chain", "nearest")]
modes = pytest.mark.parametrize(("criterion", "assignment"), MODES)
SIZES = [(1, 5), (10, 7), (64, 32), (256, 96), (729, 1152)]
# Of scores of one image alone, beside others or with padding: sums round by their place in a batch, otherwise on every
# processor. At most 5e-7 was measured (x86-64 with and without AVX2 and AVX-512, one thread).
ROUNDING = 1e-5


def rows(clusters: TokenClusters, index: int, patches: int | None = None) -> tuple[torch.Tensor, ...]:
    """One image's cluster ids, centers and scores without padding."""
    count = int(clusters.num_tokens[index])
    return (
        clusters.cluster_ids[index, :patches],
        clusters.centers[index, :count],
        clusters.scores[index, :patches],
    )


def assert_same_tokens(got: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    """Two `rows` have the same partition and seeds (no score of these images is that near to a tie), and scores."""
    assert torch.equal(got[0], expected[0]) and got[1].tolist() == expected[1].tolist()
    torch.testing.assert_close(got[2], expected[2], rtol=0, atol=ROUNDING)


def as_sets(cluster_ids: torch.Tensor) -> set[frozenset[int]]:
    """The partition alone: groups of patch indices, without their order."""
    return {frozenset((cluster_ids == c).nonzero().flatten().tolist()) for c in cluster_ids.unique() if c >= 0}


def assert_is_partition(clusters: TokenClusters, valid: torch.Tensor) -> None:
    """Every valid patch has one token, every token has a seed that belongs to it, padding has neither."""
    batch, patches = valid.shape
    assert clusters.cluster_ids.dtype == clusters.num_tokens.dtype == clusters.centers.dtype == torch.long
    assert clusters.scores.dtype == torch.float32 and clusters.scores.isfinite().all() and (clusters.scores >= 0).all()
    assert clusters.centers.shape == (batch, int(clusters.num_tokens.max()))
    assert torch.equal(clusters.cluster_ids >= 0, valid)
    assert (clusters.scores[~valid] == 0).all()
    for image in range(batch):
        ids, centers, _ = rows(clusters, image)
        count = len(centers)
        assert count >= 1
        assert ids[valid[image]].unique().tolist() == list(range(count))
        assert ids[centers].tolist() == list(range(count))
        assert (clusters.centers[image, count:] == -1).all()


# ------------------------------------------------------------------------------------------------ reference


def reference(x: np.ndarray, valid, criterion, assignment, neighbors, scale, max_tokens=64, threshold=None, fixed=None):
    """The definition with loops in float64: one image (N, D) to cluster ids, centers and scores."""
    members = [i for i in range(len(x)) if valid[i]]
    z = {i: x[i] / max(np.linalg.norm(x[i]), 1e-300) for i in members}
    d2 = {(i, j): float(((z[i] - z[j]) ** 2).sum()) for i in members for j in members}
    if scale is None:
        scale = np.mean([d2[i, j] for i in members for j in members])
    scale = max(scale, 1e-3)
    spread = {}
    for i in members:
        nearest = sorted(d2[i, j] for j in members if j != i)[:neighbors]
        spread[i] = float(np.mean(nearest)) if nearest else 0.0
    order = sorted(members, key=lambda i: (spread[i], i))
    parent, separation = {}, {}
    for place, i in enumerate(order):
        if place == 0:
            separation[i] = max(d2[i, j] for j in members)
        else:
            parent[i] = min(order[:place], key=lambda j: d2[i, j])
            separation[i] = d2[i, parent[i]]
    scores = np.zeros(len(x))
    for i in members:
        if criterion == "relative":
            scores[i] = math.sqrt(separation[i] / (spread[i] + scale / 4))
        else:
            scores[i] = math.exp(-spread[i] / scale) * math.sqrt(separation[i] / scale)
    threshold = {"relative": 1.0, "product": 0.5}[criterion] if threshold is None else threshold
    seeds = [i for i in order[1:] if fixed is not None or scores[i] > threshold]
    seeds = [order[0]] + sorted(seeds, key=lambda i: -scores[i])[: (fixed or max_tokens) - 1]
    seeds = sorted(seeds, key=lambda i: -scores[i])
    ids = np.full(len(x), -1)
    for i in members:
        if assignment == "chain":
            seed = i
            while seed not in seeds:
                seed = parent[seed]
        else:
            seed = i if i in seeds else min(seeds, key=lambda c: d2[i, c])
        ids[i] = seeds.index(seed)
    return ids, np.array(seeds), scores


@modes
@pytest.mark.parametrize("scale", [None, 0.8])
@pytest.mark.parametrize("options", [{}, {"max_tokens": 4}, {"fixed_tokens": 5}, {"threshold": 0.7}], ids=str)
def test_equals_the_definition(criterion, assignment, scale, options):
    x = blobs(3, 60, 12, noise=0.5)
    mask = torch.ones(3, 60, dtype=torch.bool)
    mask[1, 40:] = False
    mask[2, ::3] = False
    clusters = cluster_tokens(
        x, num_neighbors=5, criterion=criterion, assignment=assignment, scale=scale, patch_mask=mask, **options
    )
    for image in range(3):
        ids, centers, scores = reference(
            x[image].double().numpy(), mask[image], criterion, assignment, 5, scale, options.get("max_tokens", 64),
            options.get("threshold"), options.get("fixed_tokens"),
        )  # fmt: skip
        got_ids, got_centers, got_scores = rows(clusters, image)
        assert got_centers.tolist() == centers.tolist()
        assert got_ids.tolist() == ids.tolist()
        np.testing.assert_allclose(got_scores.numpy(), scores, atol=2e-5)


# ----------------------------------------------------------------------------------------------- invariants


@modes
@pytest.mark.parametrize(("patches", "dim"), SIZES)
def test_partition(criterion, assignment, patches, dim):
    x = blobs(2, patches, dim)
    clusters = cluster_tokens(x, criterion=criterion, assignment=assignment)
    assert_is_partition(clusters, torch.ones(2, patches, dtype=torch.bool))


def test_random_blobs_are_found():
    """Six well separated directions are six tokens, whatever the lengths of the patches."""
    clusters = cluster_tokens(blobs(4, 200, 48, groups=6, noise=0.1))
    assert clusters.num_tokens.tolist() == [6, 6, 6, 6]


@modes
@pytest.mark.parametrize(("height", "width"), [(5, 9), (9, 5), (1, 13), (24, 2)])
def test_any_grid_gives_connected_regions_their_token(criterion, assignment, height, width):
    """Rows of two colours on a grid h x w: the partition is the two colours."""
    colours = torch.eye(2)[torch.arange(height * width) % width * 2 // width]
    x = (colours @ torch.randn(2, 16))[None]
    ids = cluster_tokens(x, criterion=criterion, assignment=assignment).cluster_ids[0]
    assert as_sets(ids) == as_sets(colours.argmax(1))


@modes
@pytest.mark.parametrize("value", [0.0, 1.0, -7.5, 1e-30, 1e30])
def test_constant_image_is_one_token(criterion, assignment, value):
    clusters = cluster_tokens(torch.full((2, 49, 16), value), criterion=criterion, assignment=assignment)
    assert clusters.num_tokens.tolist() == [1, 1]
    assert (clusters.cluster_ids == 0).all()


@modes
def test_almost_constant_image_is_one_token(criterion, assignment):
    x = torch.randn(32) + 1e-4 * torch.randn(1, 196, 32)
    assert cluster_tokens(x, criterion=criterion, assignment=assignment).num_tokens.tolist() == [1]


@modes
@pytest.mark.parametrize("groups", [1, 2, 3, 7, 12])
def test_groups_of_exact_duplicates_are_the_tokens(criterion, assignment, groups):
    """k groups of identical patches, each larger than K: k tokens, nothing but the groups."""
    group = torch.randperm(groups * 9) % groups
    x = torch.nn.functional.normalize(torch.randn(groups, 24), dim=-1)[group][None]
    clusters = cluster_tokens(x, criterion=criterion, assignment=assignment)
    assert as_sets(clusters.cluster_ids[0]) == as_sets(group)


@modes
def test_one_patch_and_fewer_patches_than_neighbors(criterion, assignment):
    one = cluster_tokens(torch.randn(3, 1, 8), criterion=criterion, assignment=assignment)
    assert one.num_tokens.tolist() == [1, 1, 1] and (one.cluster_ids == 0).all() and (one.centers == 0).all()
    for patches in (2, 3, 5, 6):
        x = torch.randn(2, patches, 8)
        few = cluster_tokens(x, num_neighbors=6, criterion=criterion, assignment=assignment)
        assert_is_partition(few, torch.ones(2, patches, dtype=torch.bool))
        for image in range(2):
            ids, centers, scores = reference(
                x[image].double().numpy(), [True] * patches, criterion, assignment, 6, None
            )
            assert rows(few, image)[0].tolist() == ids.tolist()
            np.testing.assert_allclose(few.scores[image].numpy(), scores, atol=1e-5)


@modes
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_patches_that_are_not_finite_count_as_padding(criterion, assignment, bad):
    x = blobs(2, 50, 16)
    broken = x.clone()
    broken[0, 7, 3] = bad
    broken[0, 20] = bad
    mask = torch.ones(2, 50, dtype=torch.bool)
    mask[0, [7, 20]] = False
    got = cluster_tokens(broken, criterion=criterion, assignment=assignment)
    expected = cluster_tokens(x, criterion=criterion, assignment=assignment, patch_mask=mask)
    assert_is_partition(got, mask)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@modes
def test_zero_vectors_form_a_group(criterion, assignment):
    """A patch without direction is like any other patch without direction, and unlike the rest."""
    x = blobs(1, 60, 16, groups=3, noise=0.05)
    x[:, 10:25] = 0
    clusters = cluster_tokens(x, criterion=criterion, assignment=assignment)
    assert_is_partition(clusters, torch.ones(1, 60, dtype=torch.bool))
    assert frozenset(range(10, 25)) in as_sets(clusters.cluster_ids[0])


@modes
@pytest.mark.parametrize("content", [0.0, 1e30, math.nan, math.inf, "noise"])
def test_padding_of_any_content_is_ignored(criterion, assignment, content):
    x = blobs(2, 80, 24)
    mask = torch.rand(2, 80) < 0.7
    padded = x.clone()
    padded[~mask] = 100 * torch.randn(int((~mask).sum()), 24) if content == "noise" else content
    got = cluster_tokens(padded, criterion=criterion, assignment=assignment, patch_mask=mask)
    expected = cluster_tokens(x, criterion=criterion, assignment=assignment, patch_mask=mask)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    for image in range(2):  # and the patches that count are clustered as they would be without the others
        alone = cluster_tokens(x[image, mask[image]][None], criterion=criterion, assignment=assignment)
        assert torch.equal(got.cluster_ids[image, mask[image]], alone.cluster_ids[0])
        torch.testing.assert_close(got.scores[image, mask[image]], alone.scores[0], rtol=0, atol=ROUNDING)


@modes
@pytest.mark.parametrize(("patches", "dim"), SIZES)
def test_batch_row_is_row_alone(criterion, assignment, patches, dim):
    """Also beside a blank image and a busy one: a scale shared over the batch would show in the scores."""
    x = blobs(4, patches, dim)
    x[1] = 1.0  # blank
    x[2] = torch.randn(patches, dim)  # busy
    together = cluster_tokens(x, criterion=criterion, assignment=assignment)
    for image in range(len(x)):
        alone = cluster_tokens(x[image : image + 1], criterion=criterion, assignment=assignment)
        if image == 1:  # all its patches are a tie: any of them may be the seed
            assert alone.num_tokens[0] == together.num_tokens[1] == 1
        else:
            assert_same_tokens(rows(together, image), rows(alone, 0))


@modes
@pytest.mark.parametrize(("patches", "dim"), [(256, 96), (729, 1152)])
@pytest.mark.parametrize("extra", [1, 55])
def test_appended_padding_changes_nothing(criterion, assignment, patches, dim, extra):
    x = blobs(2, patches, dim)
    padded = torch.cat([x, torch.full((2, extra, dim), math.nan)], dim=1)
    mask = (torch.arange(patches + extra) < patches).expand(2, -1)
    bare = cluster_tokens(x, criterion=criterion, assignment=assignment)
    for clusters in (
        cluster_tokens(padded, criterion=criterion, assignment=assignment, patch_mask=mask),
        cluster_tokens(padded.nan_to_num(5.0), criterion=criterion, assignment=assignment, patch_mask=mask),
    ):
        for image in range(2):
            assert_same_tokens(rows(clusters, image, patches), rows(bare, image))


@modes
def test_scale_is_each_images_own_unless_given(criterion, assignment):
    """A nearly blank and a busy image, each with its own S; a given S is used as it is."""
    x = torch.cat([torch.randn(1, 64, 32), torch.randn(32) + 0.3 * torch.randn(1, 64, 32)])
    own = feature_scale(*unit_directions(x))
    assert own[0] > 5 * own[1]
    free = cluster_tokens(x, criterion=criterion, assignment=assignment)
    given = cluster_tokens(x, criterion=criterion, assignment=assignment, scale=own)
    shared = cluster_tokens(x, criterion=criterion, assignment=assignment, scale=float(own.mean()))
    assert all(torch.equal(a, b) for a, b in zip(free, given, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(free, cluster_tokens(x, criterion=criterion, scale=0.0,
                                                                    assignment=assignment), strict=True))  # fmt: skip
    assert ((shared.scores - free.scores).abs().amax(-1) > 0.01).all()


@modes
def test_permutation_of_patches(criterion, assignment):
    x = blobs(2, 100, 24)
    order = torch.randperm(100)
    a = cluster_tokens(x, criterion=criterion, assignment=assignment)
    b = cluster_tokens(x[:, order], criterion=criterion, assignment=assignment)
    assert torch.equal(a.cluster_ids[:, order], b.cluster_ids)
    assert torch.equal(a.centers, torch.where(b.centers < 0, -1, order[b.centers]))
    torch.testing.assert_close(a.scores[:, order], b.scores, rtol=0, atol=1e-5)


@modes
@pytest.mark.parametrize("factor", [1e-20, 0.3, 8.0, 1e20, "per patch"])
def test_positive_scale(criterion, assignment, factor):
    x = blobs(2, 100, 24)
    scaled = x * (torch.rand(2, 100, 1) * 10 + 0.1 if factor == "per patch" else factor)
    a = cluster_tokens(x, criterion=criterion, assignment=assignment)
    b = cluster_tokens(scaled, criterion=criterion, assignment=assignment)
    assert torch.equal(a.cluster_ids, b.cluster_ids) and torch.equal(a.centers, b.centers)
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-5)


@modes
def test_rotation_of_feature_space(criterion, assignment):
    x = blobs(2, 100, 24)
    rotation = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64)).Q
    a = cluster_tokens(x, criterion=criterion, assignment=assignment)
    b = cluster_tokens((x.double() @ rotation).float(), criterion=criterion, assignment=assignment)
    assert torch.equal(a.cluster_ids, b.cluster_ids) and torch.equal(a.centers, b.centers)
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-5)


@modes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_input_is_clustered_as_the_same_values_in_float32(criterion, assignment, dtype):
    x = blobs(2, 100, 96).to(dtype)
    low = cluster_tokens(x, criterion=criterion, assignment=assignment)
    full = cluster_tokens(x.float(), criterion=criterion, assignment=assignment)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = cluster_tokens(x, criterion=criterion, assignment=assignment)
    for clusters in (low, autocast):
        assert all(torch.equal(a, b) for a, b in zip(clusters, full, strict=True))


@modes
def test_deterministic_and_without_random_numbers(criterion, assignment):
    x = blobs(2, 64, 16)
    state = torch.get_rng_state()
    a = cluster_tokens(x, criterion=criterion, assignment=assignment)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    b = cluster_tokens(x, criterion=criterion, assignment=assignment)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


# -------------------------------------------------------------------------------------------------- options


@modes
@pytest.mark.parametrize("limit", [1, 2, 5, 64])
def test_max_tokens_keeps_the_best_scores(criterion, assignment, limit):
    x = torch.randn(2, 80, 4)
    every = cluster_tokens(x, criterion=criterion, assignment=assignment, max_tokens=80)
    few = cluster_tokens(x, criterion=criterion, assignment=assignment, max_tokens=limit)
    assert_is_partition(few, torch.ones(2, 80, dtype=torch.bool))
    for image in range(2):
        ids, centers, scores = rows(every, image)
        kept = rows(few, image)[1]
        assert len(kept) == min(limit, len(centers))
        assert set(kept.tolist()) <= set(centers.tolist())
        # the densest patch, where every chain ends, stays; of the others none that was left out scores higher
        left_out = sorted(set(centers.tolist()) - set(kept.tolist()), key=lambda i: -scores[i])
        assert not left_out or int((scores[kept] < scores[left_out[0]]).sum()) <= 1


@modes
@pytest.mark.parametrize("count", [1, 3, 20, 49, 200])
def test_fixed_tokens(criterion, assignment, count):
    """The count is fixed, on a blank image too; an image with fewer patches has as many tokens as patches."""
    x = torch.cat([blobs(1, 49, 16), torch.ones(1, 49, 16), torch.randn(1, 49, 16)])
    mask = torch.ones(3, 49, dtype=torch.bool)
    mask[2, 30:] = False
    clusters = cluster_tokens(
        x, criterion=criterion, assignment=assignment, fixed_tokens=count, max_tokens=2, patch_mask=mask
    )
    assert clusters.num_tokens.tolist() == [min(count, 49), min(count, 49), min(count, 30)]
    assert_is_partition(clusters, mask)


@modes
def test_token_order(criterion, assignment):
    x = blobs(3, 100, 16)
    by_score = cluster_tokens(x, criterion=criterion, assignment=assignment)
    raster = cluster_tokens(x, criterion=criterion, assignment=assignment, token_order="raster")
    for image in range(3):
        ids, centers, scores = rows(by_score, image)
        assert (scores[centers].diff() <= 0).all()
        ids_raster, centers_raster, scores_raster = rows(raster, image)
        assert centers_raster.tolist() == sorted(centers.tolist())
        assert as_sets(ids) == as_sets(ids_raster) and torch.equal(scores, scores_raster)


@modes
def test_from_top_to_bottom_with_the_largest_first(criterion, assignment):
    x = blobs(3, 100, 16)
    options = {"criterion": criterion, "assignment": assignment}
    by_score, top_down = (cluster_tokens(x, **options, token_order=order) for order in ("score", "top_down"))
    for image in range(3):
        ids, centers, _ = rows(top_down, image)
        assert as_sets(ids) == as_sets(rows(by_score, image)[0])
        assert ids[centers].tolist() == list(range(len(centers)))
        sizes = ids.bincount().tolist()
        means = [float((ids == token).nonzero().float().mean()) for token in range(len(centers))]
        assert len(centers) > 2 and sizes[0] == max(sizes) and means[1:] == sorted(means[1:])


def test_padding_does_not_change_the_order_from_top_to_bottom():
    """A picture of 6 x 8 patches in a batch with one of 9 x 12: its rows are further apart there."""
    x = blobs(1, 48, 16)
    padded, mask = torch.zeros(1, 9, 12, 16), torch.zeros(1, 9, 12, dtype=torch.bool)
    padded[:, :6, :8], mask[:, :6, :8] = x.view(1, 6, 8, 16), True
    alone = cluster_tokens(x, token_order="top_down")
    among = cluster_tokens(padded.flatten(1, 2), patch_mask=mask.flatten(1), token_order="top_down")
    assert torch.equal(among.cluster_ids.view(9, 12)[:6, :8].flatten(), alone.cluster_ids[0])
    assert int(alone.num_tokens) > 2 and (among.cluster_ids[~mask.flatten(1)] == -1).all()


@modes
def test_threshold(criterion, assignment):
    """0.0 is a threshold like any other, not "none given"; a higher one gives fewer tokens."""
    x = torch.randn(1, 60, 8)
    counts = [
        int(cluster_tokens(x, criterion=criterion, assignment=assignment, threshold=t).num_tokens)
        for t in (0.0, 0.3, 0.6, 0.9, 100.0)
    ]
    assert counts[0] == 60 and counts[-1] == 1 and counts == sorted(counts, reverse=True)
    default = {"relative": 1.0, "product": 0.5}[criterion]
    a = cluster_tokens(x, criterion=criterion, assignment=assignment)
    b = cluster_tokens(x, criterion=criterion, assignment=assignment, threshold=default)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_chain_and_nearest_differ():
    """A curved band of patches: chains follow it to its densest part, the nearest seed cuts it."""
    angle = torch.linspace(0, 1.5 * math.pi, 120)
    arc = torch.stack([angle.cos(), angle.sin(), torch.full_like(angle, 0.2)], -1) + 0.01 * torch.randn(120, 3)
    x = torch.cat([arc, torch.tensor([0.0, 0.0, 1.0]) + 0.05 * torch.randn(30, 3)])[None]
    chain = cluster_tokens(x, assignment="chain", num_neighbors=8)
    nearest = cluster_tokens(x, assignment="nearest", num_neighbors=8)
    assert torch.equal(chain.centers, nearest.centers) and torch.equal(chain.scores, nearest.scores)
    assert not torch.equal(chain.cluster_ids, nearest.cluster_ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": "density"}, "criterion must be one of"),
        ({"assignment": "far"}, "assignment must be one of"),
        ({"token_order": "random"}, "token_order must be one of"),
        ({"num_neighbors": 0}, "num_neighbors must be at least 1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"fixed_tokens": 0}, "fixed_tokens must be at least 1"),
        ({"patch_mask": torch.ones(2, 3)}, r"patch_mask must be \(batch, patches\) = \(2, 9\), got \(2, 3\)"),
        ({"patch_mask": torch.arange(2)[:, None].expand(-1, 9) > 0}, r"Images \[0\] of the batch have no valid patch"),
        ({"scale": -0.5}, "scale must not be negative"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        cluster_tokens(torch.randn(2, 9, 4), **arguments)


@pytest.mark.parametrize(
    "x", [torch.randn(9, 4), torch.randn(2, 0, 4), torch.ones(2, 9, 4, dtype=torch.long)], ids=["2d", "empty", "long"]
)
def test_bad_embeddings_are_refused(x):
    with pytest.raises(ValueError, match="patch_embeddings must be a float tensor"):
        cluster_tokens(x)


def test_image_of_nan_is_refused():
    x = torch.randn(3, 9, 4)
    x[1] = math.nan
    with pytest.raises(ValueError, match=r"Images \[1\] of the batch have no valid patch.*NaN"):
        cluster_tokens(x)


# --------------------------------------------------------------------------------------------------- blocks


def all_rows(distances: DistanceRows) -> torch.Tensor:
    (rows,) = distances.for_rows(lambda rows, _: (rows.clone(),))
    return rows


@modes
@pytest.mark.parametrize(("patches", "dim"), [(200, 24), (333, 50), (729, 96)])
def test_blocks_of_rows_give_the_tokens_of_the_whole(monkeypatch, criterion, assignment, patches, dim):
    """Also with padding, and where the last block is smaller; the row of a batch is the row alone, bit for bit."""
    x = blobs(3, patches, dim)
    mask = torch.rand(3, patches) < 0.8
    options = {"criterion": criterion, "assignment": assignment, "patch_mask": mask}
    whole = cluster_tokens(x, **options)
    monkeypatch.setattr(density_peaks, "BLOCK_ELEMENTS", 48 * patches)
    blocks = cluster_tokens(x, **options)
    for image in range(3):
        assert_same_tokens(rows(blocks, image), rows(whole, image))
        alone = cluster_tokens(x[image][None], **options | {"patch_mask": mask[image][None]})
        assert all(torch.equal(a, b) for a, b in zip(rows(alone, 0), rows(blocks, image), strict=True))


@pytest.mark.parametrize(("patches", "dim"), [(200, 24), (333, 50), (729, 1152)])
def test_distances_are_one_number_wherever_they_are_used(monkeypatch, patches, dim):
    directions, _ = unit_directions(torch.randn(2, patches, dim))
    whole = all_rows(DistanceRows(directions))
    monkeypatch.setattr(density_peaks, "BLOCK_ELEMENTS", 48 * patches)
    distances = DistanceRows(directions)
    assert [block.shape[1] for block in distances.blocks] == [48] * (patches // 48) + [patches % 48]
    first, second = all_rows(distances), all_rows(distances)
    assert torch.equal(first, second) and torch.equal(first, first.transpose(1, 2))
    assert (first.diagonal(dim1=1, dim2=2) == 0).all()
    torch.testing.assert_close(first, whole, rtol=0, atol=1e-6)


def test_a_grid_of_1024_pixels_makes_no_matrix_of_all_patches():
    """73 x 73 patches, whose D2 would be 108 MiB: no operation takes more memory than a block."""
    x = blobs(1, 73 * 73, 16, groups=9, noise=0.1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        clusters = cluster_tokens(x)
    assert clusters.num_tokens.tolist() == [9]
    most = max(event.self_cpu_memory_usage for event in profiler.events())
    assert density_peaks.BLOCK_ELEMENTS < most <= 4 * density_peaks.BLOCK_ELEMENTS  # bytes, of float32
