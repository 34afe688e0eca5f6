"""Concept masks: soft ones against Algorithm 1 with its loop, and the algorithm to the letter."""

import math

import pytest
import torch

from modeling_setok import cluster_tokens, literal_token_masks, soft_token_masks
from modeling_setok.density_peaks import feature_scale, unit_directions
from tests.blobs import blobs

# ----------------------------------------------------------------------------------------------- soft masks


def sequential_masks(x, centers, scores, scale, sharpness, threshold, penalty, temperature) -> list[torch.Tensor]:
    """Algorithm 1 with a given order of seeds: the loop, for one image."""
    z = torch.nn.functional.normalize(x.double(), dim=-1)
    masks, scope = [], torch.ones(len(x), dtype=torch.float64)
    for seed in centers.tolist():
        distance = (z - z[seed]).square().sum(-1)
        alpha = torch.sigmoid((2 ** (-sharpness * distance / scale) - threshold - penalty * scores) / temperature)
        alpha[seed] = 1
        masks.append(scope * alpha)
        scope = scope * (1 - alpha)
    return [*masks, scope]


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("settings", [(2.0, 0.5, 0.0, 0.2), (4.0, 0.3, 0.4, 0.2), (1.0, 0.9, 0.0, 1.0)])
@pytest.mark.parametrize("assignment", ["chain", "nearest"])
def test_soft_masks_are_algorithm_1(settings, scale, assignment):
    x = blobs(3, 90, 24, noise=0.6)
    x[1] = 1.0
    mask = torch.ones(3, 90, dtype=torch.bool)
    mask[2, 70:] = False
    x[2, 75] = math.nan
    clusters = cluster_tokens(x, scale=scale, patch_mask=mask, assignment=assignment)
    names = ("sharpness", "threshold", "penalty", "temperature")
    masks = soft_token_masks(x, clusters, scale=scale, **dict(zip(names, settings, strict=True)))
    assert masks.shape == (3, clusters.centers.shape[1] + 1, 90) and masks.dtype == torch.float32
    assert masks.min() >= 0 and masks.max() <= 1
    torch.testing.assert_close(masks.sum(1), mask.float(), rtol=0, atol=1e-5)
    own = feature_scale(*unit_directions(x, mask))
    for image in range(3):
        count, valid = int(clusters.num_tokens[image]), mask[image]
        place = torch.cumsum(valid, 0) - 1  # position among the valid patches
        expected = sequential_masks(
            x[image, valid], place[clusters.centers[image, :count]], clusters.scores[image, valid],
            float(own[image]) if scale is None else scale, *settings,
        )  # fmt: skip
        # Distances, which are divided by S, are exact to about 1e-7; of the blank image S is the floor of 1e-3
        atol = 1e-5 if own[image] > 0.1 or scale else 1e-3
        torch.testing.assert_close(masks[image, : count + 1, valid].double(), torch.stack(expected), rtol=0, atol=atol)
        assert (masks[image, count + 1 :] == 0).all()  # the remainder is the row after the last token


def test_soft_masks_sum_to_one_with_many_tokens():
    x = torch.randn(2, 400, 16)
    for fixed in (1, 64, 400):
        masks = soft_token_masks(x, cluster_tokens(x, fixed_tokens=fixed))
        torch.testing.assert_close(masks.sum(1), torch.ones(2, 400), rtol=0, atol=1e-5)


def test_soft_masks_row_alone_and_low_precision():
    x = blobs(3, 64, 32)
    clusters = cluster_tokens(x)
    masks = soft_token_masks(x, clusters)
    for image in range(3):
        alone = cluster_tokens(x[image : image + 1])
        count = int(alone.num_tokens) + 1
        torch.testing.assert_close(
            soft_token_masks(x[image : image + 1], alone)[0], masks[image, :count], rtol=0, atol=1e-5
        )
    low = x.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = soft_token_masks(low, cluster_tokens(low))
    torch.testing.assert_close(autocast, soft_token_masks(low.float(), cluster_tokens(low)), rtol=0, atol=0)


def test_soft_masks_pass_gradient_to_patches_and_seeds():
    x = blobs(1, 40, 12, noise=0.5)
    x[0, 5] = 0  # no direction: the gradient stays finite
    x.requires_grad_()
    clusters = cluster_tokens(x)
    assert not clusters.scores.requires_grad
    masks = soft_token_masks(x, clusters)
    seed = int(clusters.centers[0, 0])
    patch = next(i for i in range(40) if i not in clusters.centers[0].tolist() and i != 5)
    (gradient,) = torch.autograd.grad(masks[0, 0, patch], x, retain_graph=True)
    touched = gradient[0].abs().amax(-1) > 0
    assert touched.nonzero().flatten().tolist() == sorted([seed, patch])
    (gradient,) = torch.autograd.grad((masks * torch.randn_like(masks)).sum(), x)
    assert gradient.isfinite().all() and gradient.abs().max() < 1e3


def test_soft_mask_gradient_is_that_of_finite_differences():
    """Seeds and S fixed, as in the definition of the gradient."""
    x = blobs(1, 12, 5, groups=3, noise=0.4)
    clusters = cluster_tokens(x, fixed_tokens=3)
    weights = torch.randn(1, 4, 12)

    def loss(embeddings):
        return (soft_token_masks(embeddings, clusters, scale=0.9) * weights).sum()

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    for _ in range(5):
        direction = torch.randn_like(x)
        slope = (loss(x + 1e-2 * direction) - loss(x - 1e-2 * direction)) / 2e-2
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=2e-2, atol=2e-3)


# --------------------------------------------------------------------------------------------- literal form


@pytest.mark.parametrize("noise", [0.0, 0.2, 2.0])
def test_literal_masks_are_nearly_uniform(noise):
    """What makes Algorithm 1 to the letter useless: its first mask takes half of every patch, whatever the image."""
    masks = torch.stack(literal_token_masks(blobs(1, 64, 16, noise=noise)[0]))
    torch.testing.assert_close(masks.sum(0), torch.ones(64), rtol=0, atol=1e-5)
    assert (masks[0] >= 0.5).all() and (masks.argmax(0) == 0).all()


def test_literal_mask_count_is_a_constant_of_the_stop_condition():
    images = [blobs(1, 64, 16, groups=g, noise=n, seed=s)[0] for s, (g, n) in enumerate([(1, 1), (3, 0.1), (12, 0.5)])]
    for min_scope in (0.1, 0.01, 0.001):
        counts = {len(literal_token_masks(image, min_scope=min_scope)) for image in images}
        fewest, most = (math.ceil(math.log(min_scope) / math.log(a)) for a in (0.269, 0.5))
        assert max(counts) - min(counts) <= 1 and fewest <= min(counts) and max(counts) <= most + 1
    assert len(literal_token_masks(images[0], max_masks=3)) == 3


@pytest.mark.parametrize(("penalty", "within"), [(0.0, True), (1.0, True), (3.0, False)])
def test_literal_masks_are_nearly_uniform_for_penalties_up_to_one(penalty, within):
    first, *_ = literal_token_masks(0.2 * torch.randn(40, 8), penalty=penalty)  # all of the scope is left
    low, high = torch.sigmoid(torch.tensor([-1.0, 1.0]))
    assert bool((first >= low).all() and (first <= high).all()) == within


def test_literal_needs_one_image():
    with pytest.raises(ValueError, match="one image"):
        literal_token_masks(torch.randn(2, 9, 4))
