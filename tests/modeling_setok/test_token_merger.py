"""Token merger: packed, block-diagonal and per-cluster computation agree; what a token depends on; ablations."""

import math

import pytest
import torch
from torch import nn

from modeling_setok import SetokConfig, SetokModel, TokenClusters, cluster_tokens, soft_token_masks
from modeling_setok.token_merger import ClusterPacking, TokenMerger
from modeling_setok.transformer import grid_positions, place_code, rotary_angles, rotate

DIM = 12
GRID = (4, 6)


def make_merger(attention: str = "sdpa", dim: int = DIM, **settings) -> TokenMerger:
    """A small merger with weights large enough that every part of it shows in the output."""
    settings = {
        "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_inner_layers": 2,
        "num_inter_layers": 1, "rope_theta": 10.0, **settings,
    }  # fmt: skip
    config = SetokConfig(**settings)
    config._attn_implementation = attention
    merger = TokenMerger(config, patch_dim=dim)
    generator = torch.Generator().manual_seed(1)
    for parameter in merger.parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    return merger


def clusters_of(cluster_ids: torch.Tensor) -> TokenClusters:
    """`TokenClusters` of given ids; the first member of a cluster is its seed."""
    num_tokens = cluster_ids.amax(1) + 1
    members = cluster_ids[:, None] == torch.arange(int(num_tokens.max()))[:, None]
    centers = torch.where(members.any(-1), members.int().argmax(-1), -1)
    return TokenClusters(cluster_ids, num_tokens, centers, torch.ones(cluster_ids.shape))


def batch(kind: str) -> tuple[torch.Tensor, TokenClusters]:
    """Patches (B, 24, 12) and a partition of them."""
    patches = torch.randn(3, 24, DIM)
    if kind == "mixed":  # different counts and sizes, padding that holds NaN
        ids = torch.stack([torch.arange(24) % 5, torch.zeros(24, dtype=torch.long), torch.arange(24) // 3])
        ids[0, ::4] = 3
        ids[1, 15:] = -1
        ids[2, [0, 10, 23]] = -1
        patches[ids < 0] = math.nan
    elif kind == "one cluster":
        ids = torch.zeros(3, 24, dtype=torch.long)
    elif kind == "clusters of one":
        ids = torch.stack([torch.randperm(24) for _ in range(3)])
    else:
        clusters = cluster_tokens(patches, num_neighbors=4)
        return patches, clusters
    return patches, clusters_of(ids)


KINDS = ["mixed", "one cluster", "clusters of one", "real clustering"]


def slow_block(block, x: torch.Tensor, cos: torch.Tensor | None, sin: torch.Tensor | None) -> torch.Tensor:
    """One pre-norm layer on one sequence (T, D), head by head."""
    h = block.self_attn_norm(x)
    q, k, v = (projection(h) for projection in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj))
    heads = []
    for part_q, part_k, part_v in zip(*(t.chunk(block.self_attn.num_heads, -1) for t in (q, k, v)), strict=True):
        if cos is not None:
            part_q, part_k = rotate(part_q, cos, sin), rotate(part_k, cos, sin)
        heads.append((part_q @ part_k.T / math.sqrt(part_q.shape[-1])).softmax(-1) @ part_v)
    x = x + block.self_attn.out_proj(torch.cat(heads, -1))
    return x + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.mlp_norm(x))))


def slow_merge(merger: TokenMerger, patches: torch.Tensor, clusters: TokenClusters) -> list[torch.Tensor]:
    """The definition: one cluster after the other, one image after the other."""
    config = merger.config
    positions = grid_positions(*GRID)
    images = []
    for x, ids, count in zip(patches, clusters.cluster_ids, clusters.num_tokens.tolist(), strict=True):
        means = []
        for c in range(count):
            members = ids == c
            h = merger.patch_projection(merger.patch_norm(x[members]))
            cos = sin = None
            if merger.use_positions:
                h = h + place_code(merger.position_embedding, *GRID)[members]
                head_dim = config.hidden_size // config.num_attention_heads
                cos, sin = rotary_angles(positions[members], head_dim, config.rope_theta)
            for layer in merger.inner_layers:
                h = slow_block(layer, h, cos, sin)
            means.append(merger.inner_norm(h).mean(0))
        h = torch.stack(means)
        for layer in merger.inter_layers:
            h = slow_block(layer, h, None, None)
        images.append(merger.inter_norm(h))
    return images


def run(merger: TokenMerger, patches: torch.Tensor, clusters: TokenClusters, soft_masks=None):
    """Tokens, and the gradient of a fixed function of them with respect to patches and parameters."""
    merger.zero_grad()
    leaf = patches.clone().requires_grad_()
    tokens, token_mask = merger(leaf, clusters, GRID, soft_masks)
    (tokens * torch.linspace(-1, 1, tokens.numel()).view_as(tokens).cos()).sum().backward()
    gradients = {name: p.grad.clone() for name, p in merger.named_parameters() if p.grad is not None}
    return tokens.detach(), token_mask, {"patches": leaf.grad, **gradients}


def assert_same(got, expected, forward=1e-5, backward=1e-4) -> None:
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=forward)
    assert torch.equal(got[1], expected[1])
    assert got[2].keys() == expected[2].keys()
    for name, gradient in expected[2].items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(got[2][name] / scale, gradient / scale, rtol=0, atol=backward, msg=name)


# ------------------------------------------------------------------------------------ one result, many ways


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_is_block_diagonal(kind, attention):
    patches, clusters = batch(kind)
    reference = run(make_merger("sdpa", pack_clusters=False), patches, clusters)
    assert_same(run(make_merger(attention, pack_clusters=True), patches, clusters), reference)
    assert_same(run(make_merger(attention, pack_clusters=False), patches, clusters), reference)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pack_clusters", [True, False])
def test_equals_a_loop_over_clusters(kind, pack_clusters):
    patches, clusters = batch(kind)
    merger = make_merger(pack_clusters=pack_clusters)
    tokens, token_mask = merger(patches, clusters, GRID)
    expected = slow_merge(merger, patches, clusters)
    assert token_mask.sum(1).tolist() == clusters.num_tokens.tolist()
    for image, loop in enumerate(expected):
        torch.testing.assert_close(tokens[image, : len(loop)], loop, rtol=0, atol=1e-5)
        assert (tokens[image, len(loop) :] == 0).all()
        assert token_mask[image].tolist() == [True] * len(loop) + [False] * (tokens.shape[1] - len(loop))


def test_row_alone_is_row_in_batch():
    patches, clusters = batch("mixed")
    merger = make_merger()
    tokens, token_mask = merger(patches, clusters, GRID)
    for image in range(3):
        one = clusters_of(clusters.cluster_ids[image : image + 1])
        alone, _ = merger(patches[image : image + 1], one, GRID)
        torch.testing.assert_close(tokens[image, token_mask[image]], alone[0], rtol=0, atol=1e-5)


def test_packing_sorts_by_size_and_pads_less_than_half():
    ids = torch.tensor([[0, 0, 1, -1, 0, 0, 0, 2], [1, 0, 1, 1, 1, 1, 1, 1]])
    packing = ClusterPacking.from_cluster_ids(ids, 3)
    assert packing.sizes.tolist() == [7, 5, 1, 1, 1]
    assert packing.order.tolist() == [8, 10, 11, 12, 13, 14, 15, 0, 1, 4, 5, 6, 2, 7, 9]
    assert packing.cluster_ids.tolist() == [[0] * 7 + [1] * 5 + [2, 3, 4]]
    ids = torch.cat([torch.full((n,), c) for c, n in enumerate([40, 33, 32, 20, 8, 7, 5, 4, 3, 2, 1, 1])])[None]
    seen = 0
    for first, last, index, mask in ClusterPacking.from_cluster_ids(ids, 12).buckets:
        assert first == seen and last - first == int(mask.sum()) > mask.numel() / 2
        assert index[mask[:, 0, 0]].tolist() == list(range(last - first))
        seen = last
    assert seen == ids.numel()


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing:FutureWarning")  # its name in transformers 6
def test_gradient_checkpointing_gives_the_same_gradients():
    config = SetokConfig(
        vision_config={"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4], "depths": [1]},
        hidden_size=16, intermediate_size=24, num_attention_heads=2, num_inner_layers=2, num_inter_layers=1,
    )  # fmt: skip
    patches, clusters = batch("mixed")
    patches = patches[..., :4]
    for pack_clusters in (True, False):
        config.pack_clusters = pack_clusters
        model = SetokModel(config).train()
        plain = run(model.token_merger, patches, clusters)
        for use_reentrant in (True, False):
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            assert all(layer.gradient_checkpointing for layer in model.token_merger.inner_layers)
            assert_same(run(model.token_merger, patches, clusters), plain, forward=0, backward=1e-7)
            model.gradient_checkpointing_disable()


def test_flash_needs_packing():
    patches, clusters = batch("mixed")
    merger = make_merger("flash_attention_2", pack_clusters=False)
    with pytest.raises(ValueError, match="pack_clusters=True"):
        merger(patches, clusters, GRID)


@pytest.mark.slow
@pytest.mark.parametrize("pack_clusters", [True, False])
def test_flex_attention_agrees(pack_clusters):
    """Compiles for a minute or more on a CPU."""
    patches, clusters = batch("mixed")
    merger = make_merger("flex_attention", pack_clusters=pack_clusters, hidden_size=64)
    with torch.no_grad():
        tokens, token_mask = merger(patches, clusters, GRID)
        merger.config._attn_implementation = "sdpa"
        expected, expected_mask = merger(patches, clusters, GRID)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-5)
    assert torch.equal(token_mask, expected_mask)


# ---------------------------------------------------------------------------------- what a token depends on


@pytest.mark.parametrize("pack_clusters", [True, False])
def test_nothing_outside_a_cluster_reaches_its_inner_token(pack_clusters):
    patches, clusters = batch("mixed")
    merger = make_merger(pack_clusters=pack_clusters, num_inter_layers=0)
    before, _ = merger(patches, clusters, GRID)
    changed = patches.clone()
    outside = clusters.cluster_ids[0] != 2
    changed[0, outside] = 50 * torch.randn(int(outside.sum()), DIM)
    after, _ = merger(changed, clusters, GRID)
    torch.testing.assert_close(after[0, 2], before[0, 2], rtol=0, atol=1e-5)
    assert ((after - before)[0, [0, 1, 3, 4]].abs().amax(-1) > 1e-2).all()
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=1e-5)

    leaf = patches.clone().requires_grad_()
    tokens, _ = merger(leaf, clusters, GRID)
    (gradient,) = torch.autograd.grad(tokens[0, 2].cos().sum(), leaf)
    assert (gradient[0, outside] == 0).all() and (gradient[1:] == 0).all()
    assert (gradient[0, ~outside].abs().amax(-1) > 0).all()


def test_inter_layers_relate_tokens_of_one_image():
    patches, clusters = batch("mixed")
    merger = make_merger()
    before, _ = merger(patches, clusters, GRID)
    changed = patches.clone()
    changed[0, clusters.cluster_ids[0] == 1] += torch.randn(DIM)
    after, _ = merger(changed, clusters, GRID)
    assert ((after - before)[0, :5].abs().amax(-1) > 1e-3).all()
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=1e-5)


def test_order_of_clusters_is_the_order_of_tokens():
    patches, clusters = batch("real clustering")
    merger = make_merger()
    tokens, _ = merger(patches, clusters, GRID)
    image = int(clusters.num_tokens.argmax())
    count = int(clusters.num_tokens[image])
    turned = clusters_of(count - 1 - clusters.cluster_ids[image : image + 1])
    reverse, _ = merger(patches[image : image + 1], turned, GRID)
    torch.testing.assert_close(reverse[0].flip(0), tokens[image, :count], rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------------------- ablations


def test_mean_merger_is_the_mean_of_projected_members():
    patches, clusters = batch("mixed")
    merger = make_merger(merger="mean")
    assert not merger.inner_layers and not merger.inter_layers and not hasattr(merger, "position_embedding")
    tokens, _ = merger(patches, clusters, GRID)
    for image in range(3):
        for c in range(int(clusters.num_tokens[image])):
            members = patches[image, clusters.cluster_ids[image] == c]
            mean = merger.inner_norm(merger.project(members)).mean(0)
            torch.testing.assert_close(tokens[image, c], merger.inter_norm(mean), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"use_position_embeddings": False}, {"num_inner_layers": 0}, {"num_inter_layers": 0}], ids=str
)
def test_parts_can_be_left_out(settings):
    patches, clusters = batch("mixed")
    merger, whole = make_merger(**settings), make_merger()
    tokens, _ = merger(patches, clusters, GRID)
    for image, loop in enumerate(slow_merge(merger, patches, clusters)):
        torch.testing.assert_close(tokens[image, : len(loop)], loop, rtol=0, atol=1e-5)
    assert sum(p.numel() for p in merger.parameters()) < sum(p.numel() for p in whole.parameters())
    assert (tokens - whole(patches, clusters, GRID)[0]).abs().max() > 0.01


def test_positions_tell_where_a_cluster_is():
    """The same patches two rows further down: another token, unless positions are left out."""
    ids = torch.ones(1, 24, dtype=torch.long)
    ids[0, :3] = 0
    moved = ids.roll(12, 1)
    patches = torch.randn(1, 24, DIM)
    for use, equal in ((True, False), (False, True)):
        merger = make_merger(use_position_embeddings=use)
        here, _ = merger(patches, clusters_of(ids), GRID)
        there, _ = merger(patches.roll(12, 1), clusters_of(moved)._replace(cluster_ids=moved), GRID)
        assert torch.allclose(here[0, 0], there[0, 0], atol=1e-5) == equal


def test_extents_tell_where_a_cluster_is_without_positions():
    ids = torch.ones(1, 24, dtype=torch.long)
    ids[0, :3] = 0
    moved = ids.roll(12, 1)
    patches = torch.randn(1, 24, DIM)
    merger = make_merger(use_position_embeddings=False, use_extent_embeddings=True)
    here, _ = merger(patches, clusters_of(ids), GRID)
    there, _ = merger(patches.roll(12, 1), clusters_of(moved)._replace(cluster_ids=moved), GRID)
    assert (here[0, 0] - there[0, 0]).abs().max() > 0.01
    here.square().sum().backward()
    assert merger.extent_embedding.projection.weight.grad.abs().max() > 0


def test_axial_rotary_positions_are_relative_and_two_dimensional():
    positions = grid_positions(5, 7)
    assert positions[9].tolist() == [1, 2] and positions.shape == (35, 2)
    cos, sin = rotary_angles(positions, 8, 10.0)
    q, k = torch.randn(8), torch.randn(8)
    dots = rotate(q, cos, sin) @ rotate(k, cos, sin).T
    grid = dots.view(5, 7, 5, 7)
    torch.testing.assert_close(grid[:4, :6, :4, :6], grid[1:, 1:, 1:, 1:], rtol=0, atol=1e-5)  # a shift changes nothing
    assert (grid[0, 0, 1, 0] - grid[0, 0, 0, 1]).abs() > 1e-3  # down is not right
    torch.testing.assert_close(rotate(q, cos, sin).norm(dim=-1), q.norm().expand(35), rtol=0, atol=1e-5)
    assert rotate(q.bfloat16(), cos, sin).dtype == torch.bfloat16


def test_place_code_means_the_same_on_every_grid():
    vector = torch.randn(16)
    fine, coarse = place_code(vector, 8, 12).view(8, 12, 16), place_code(vector, 4, 6).view(4, 6, 16)
    similarity = torch.einsum("hwd,yxd->hwyx", coarse, fine) / vector.norm() ** 2
    best = similarity.flatten(2).argmax(-1)
    rows, columns = best // 12, best % 12
    assert ((rows - 2 * torch.arange(4)[:, None] - 0.5).abs() <= 0.5).all()
    assert ((columns - 2 * torch.arange(6) - 0.5).abs() <= 0.5).all()
    torch.testing.assert_close(place_code(vector, 1, 1)[0].norm(), vector.norm())


# ---------------------------------------------------------------------------------------------- soft masks


def soft_batch():
    patches, _ = batch("real clustering")
    patches[1, 20:] = math.nan
    clusters = cluster_tokens(patches, num_neighbors=4)
    return patches, clusters, soft_token_masks(patches, clusters, scale=1.0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_soft_masks_weigh_the_mean(attention):
    """Without layers: the mean of all patches, weighted by the mask; one more token for what remains."""
    patches, clusters, masks = soft_batch()
    merger = make_merger(attention, assignment_mode="soft", num_inner_layers=0, num_inter_layers=0)
    merger.use_positions = False
    tokens, token_mask = merger(patches, clusters, GRID, masks)
    assert torch.equal(token_mask.sum(1), clusters.num_tokens + 1)
    h = merger.inner_norm(merger.project(patches.nan_to_num()))
    for image in range(3):
        for c in range(int(clusters.num_tokens[image]) + 1):
            weights = masks[image, c]
            mean = (weights[:, None] * h[image]).sum(0) / weights.sum()
            torch.testing.assert_close(tokens[image, c], merger.inter_norm(mean), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_soft_masks_that_are_hard_give_the_hard_tokens(attention):
    """The attention bias of masks 0 and 1 is the block-diagonal mask; the remainder is empty."""
    patches, clusters = batch("mixed")
    ids = clusters.cluster_ids
    masks = (ids[:, None] == torch.arange(clusters.centers.shape[1] + 1)[:, None]).float()
    hard, _ = make_merger(num_inter_layers=0)(patches, clusters, GRID)
    soft, _ = make_merger(attention, assignment_mode="soft", num_inter_layers=0)(patches, clusters, GRID, masks)
    for image, count in enumerate(clusters.num_tokens.tolist()):
        torch.testing.assert_close(soft[image, :count], hard[image, :count], rtol=0, atol=1e-5)


def test_soft_eager_is_sdpa_and_gradients_are_finite():
    patches, clusters, masks = soft_batch()
    merger = make_merger("sdpa", assignment_mode="soft")
    sdpa = run(merger, patches, clusters, masks)
    assert_same(run(make_merger("eager", assignment_mode="soft"), patches, clusters, masks), sdpa)
    assert all(gradient.isfinite().all() for gradient in sdpa[2].values())
    assert (sdpa[2]["patches"][1, 20:] == 0).all()


def test_tiny_soft_masks_still_give_a_mean():
    """A token that earlier ones left almost nothing is the mean of its patches, not a vector close to zero."""
    patches, clusters, masks = soft_batch()
    merger = make_merger(assignment_mode="soft", num_inner_layers=0, num_inter_layers=0)
    factor = torch.ones(masks.shape[1], 1)
    factor[0] = 1e-12
    tokens, _ = merger(patches, clusters, GRID, masks)
    scaled, _ = merger(patches, clusters, GRID, masks * factor)
    torch.testing.assert_close(scaled, tokens, rtol=1e-4, atol=1e-4)


def test_soft_masks_need_an_additive_bias():
    patches, clusters, masks = soft_batch()
    with pytest.raises(ValueError, match="additive attention bias"):
        make_merger("flash_attention_2", assignment_mode="soft")(patches, clusters, GRID, masks)


# ---------------------------------------------------------------------------------------- straight through


def test_straight_through_is_hard_forward_and_soft_backward():
    patches, clusters = batch("real clustering")
    merger = make_merger()
    hard, _ = merger(patches, clusters, GRID)
    masks = soft_token_masks(patches, clusters).requires_grad_()
    through, _ = merger(patches, clusters, GRID, masks)
    torch.testing.assert_close(through, hard, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(through.cos().sum(), masks)
    is_token = clusters.centers >= 0
    assert (gradient[:, :-1][is_token].abs().amax(-1) > 0).all()
    assert (gradient[:, -1] == 0).all()


@pytest.mark.parametrize(("mode", "learns"), [("hard", False), ("straight through", True), ("soft", True)])
def test_only_soft_gradients_teach_the_grouping(mode, learns):
    """Channel scales that reach the tokens through the masks alone: tokens pool fixed targets.

    Hard masks give them no gradient at all. With a soft gradient the distracting channels are turned down.
    """
    group = torch.arange(60) % 3
    informative = torch.randn(3, 6)[group] + 0.1 * torch.randn(60, 6)
    distracting = torch.randn(4, 6)[torch.arange(60) // 15] + 0.1 * torch.randn(60, 6)
    targets = torch.eye(3)[group]
    log_scales = torch.zeros(12, requires_grad=True)
    optimizer = torch.optim.Adam([log_scales], lr=0.1)
    for _ in range(40 if learns else 1):
        x = (torch.cat([informative, distracting], -1) * log_scales.exp())[None]
        clusters = cluster_tokens(x, num_neighbors=4, fixed_tokens=3)
        soft = soft_token_masks(x, clusters, sharpness=4.0, temperature=0.1)[0, :-1]
        hard = (clusters.cluster_ids[0] == torch.arange(3)[:, None]).float()
        masks = {"hard": hard, "soft": soft, "straight through": hard + soft - soft.detach()}[mode]
        tokens = masks @ targets / masks.sum(-1, keepdim=True)  # pooled as the merger pools
        loss = -tokens.square().sum(-1).mean()  # largest where every token holds one group alone
        if not learns:
            assert not loss.requires_grad
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scales = log_scales.detach().exp()
    assert scales[:6].mean() > 1.5 * scales[6:].mean()
