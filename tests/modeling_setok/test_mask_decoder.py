"""The mask decoder: shapes, padding, positions, that it learns masks; its losses."""

import pytest
import torch

from modeling_setok import MaskDecoder, SetokimMaskDecoderConfig
from modeling_setok.mask_decoder import mask_losses

CONFIG = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


def decoder(**settings) -> MaskDecoder:
    return MaskDecoder(SetokimMaskDecoderConfig(**CONFIG | settings), patch_dim=12, token_dim=6).eval()


def lively(model: MaskDecoder) -> MaskDecoder:
    """With weights so large that everything that is read shows in the result."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (1, 1)])
def test_logits_are_four_times_the_grid(grid):
    patches, tokens = torch.randn(2, grid[0] * grid[1], 12), torch.randn(2, 3, 6)
    logits = decoder()(patches, grid, tokens, torch.ones(2, 3, dtype=torch.bool))
    assert logits.shape == (2, 4 * grid[0], 4 * grid[1]) and logits.dtype == torch.float32 and logits.isfinite().all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_and_other_masks_play_no_part(attention):
    model = lively(decoder())
    model.set_attn_implementation(attention)
    patches, tokens = torch.randn(3, 9, 12), torch.randn(3, 4, 6)
    present = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    with torch.no_grad():
        together = model(patches, (3, 3), tokens, present)
        other = model(patches, (3, 3), torch.where(present[..., None], tokens, 1e3), present)
        torch.testing.assert_close(other, together, rtol=0, atol=1e-5)
        for row, count in enumerate((2, 1, 4)):
            alone = model(patches[[row]], (3, 3), tokens[[row], :count], present[[row], :count])
            torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)


def test_attention_implementations_agree():
    model, results = lively(decoder()), []
    patches, tokens, present = torch.randn(2, 9, 12), torch.randn(2, 2, 6), torch.tensor([[True, False], [True, True]])
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            results.append(model(patches, (3, 3), tokens, present))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_every_token_counts_their_order_does_not():
    model = lively(decoder())
    patches, tokens, present = torch.randn(1, 9, 12), torch.randn(1, 3, 6), torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        base = model(patches, (3, 3), tokens, present)
        torch.testing.assert_close(model(patches, (3, 3), tokens.flip(1), present), base, rtol=1e-4, atol=1e-4)
        fewer = model(patches, (3, 3), tokens, torch.tensor([[True, True, False]]))
        assert not torch.allclose(fewer, base, atol=1e-2)
        torch.testing.assert_close(model(5 * patches, (3, 3), tokens, present), base, rtol=1e-4, atol=1e-4)


def test_equal_patches_differ_by_place():
    with torch.no_grad():
        logits = lively(decoder())(torch.ones(1, 9, 12), (3, 3), torch.ones(1, 1, 6), torch.ones(1, 1).bool())
    cells = torch.nn.functional.avg_pool2d(logits, 4).flatten()
    assert len(cells.round(decimals=4).unique()) == 9


@pytest.mark.parametrize("width", [32, 128, 256])
def test_a_new_decoder_hears_its_prompts(width):
    """Of what the mask token becomes, a good part differs between prompts; else all of them get one mask for long."""
    settings = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": max(2, width // 32)}
    shares = []
    for _ in range(3):
        model = decoder(**settings)
        model.classifier.register_forward_pre_hook(lambda _, args: shares.append(varying_share(args[0][:, 0])))
        patches, tokens = torch.randn(1, 9, 12).expand(16, -1, -1), torch.randn(16, 1, 6)
        with torch.no_grad():
            model(patches, (3, 3), tokens, torch.ones(16, 1, dtype=torch.bool))
    assert len(shares) == 3 and min(shares) > 0.3


def varying_share(states: torch.Tensor) -> float:
    """How far vectors (N, D) are from their mean, as a share of their length."""
    return float((states - states.mean(0)).norm() / states.norm())


@pytest.mark.parametrize("seed", range(5))
def test_learns_masks_of_one_image(seed):
    """Of the same patches, each of two tokens refers to a region. Whatever the seed: other processors round otherwise,
    which in training is as good as another seed."""
    torch.manual_seed(seed)
    model = decoder().train()
    patches, tokens = torch.randn(1, 36, 12).expand(2, -1, -1), torch.randn(2, 1, 6)
    masks = torch.zeros(2, 24, 24)
    masks[0, 4:12, 4:16] = masks[1, 12:24, 8:12] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        logits = model(patches, (6, 6), tokens, torch.ones(2, 1, dtype=torch.bool))
        got, wanted = logits > 0, masks.bool()
        iou = (got & wanted).sum((1, 2)) / (got | wanted).sum((1, 2))
        if iou.min() > 0.9:
            break
        cross_entropy, dice = mask_losses(logits, masks)
        optimizer.zero_grad()
        (2 * cross_entropy + dice).backward()
        optimizer.step()
    assert iou.min() > 0.9


def test_every_parameter_gets_a_gradient():
    model = decoder()
    model(torch.randn(1, 9, 12), (3, 3), torch.randn(1, 2, 6), torch.ones(1, 2).bool()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_noise_on_tokens_in_training_only():
    patches, tokens, present = torch.randn(1, 9, 12), torch.randn(1, 2, 6), torch.ones(1, 2).bool()
    for noise, differs in ((0.5, True), (0.0, False)):
        model = lively(decoder(token_noise=noise))
        with torch.no_grad():
            results = [model.train(mode)(patches, (3, 3), tokens, present) for mode in (False, False, True)]
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2]) is not differs


# losses


def test_losses_by_hand():
    logits, masks = torch.randn(3, 4, 4), torch.rand(3, 4, 4).round()
    inside = 1 / (1 + (-logits).exp())
    likelihood = torch.where(masks == 1, inside, 1 - inside)
    dice = 0.0
    for p, m in zip(inside, masks, strict=True):
        dice += (1 - (2 * (p * m).sum() + 1) / (p.sum() + m.sum() + 1)) / 3
    cross_entropy, got = mask_losses(logits, masks)
    torch.testing.assert_close(cross_entropy, -likelihood.log().mean())
    torch.testing.assert_close(got, dice)


def test_losses_of_right_and_wrong_masks():
    masks = torch.zeros(2, 8, 8)
    masks[:, :4] = 1
    small = torch.where(masks[:, ::2, ::2] == 1, 50.0, -50.0)  # at half the size
    right, wrong = mask_losses(small, masks), mask_losses(-small, masks)
    assert right[0] < 2 and right[1] < 0.1 and wrong[0] > 40 and wrong[1] > 0.8
    empty = mask_losses(torch.full((1, 4, 4), -50.0), torch.zeros(1, 4, 4))
    assert empty[0] < 1e-6 and empty[1] < 1e-6
