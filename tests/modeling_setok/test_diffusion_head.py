"""The diffusion head: what it starts as, what it learns, how it samples."""

import pytest
import torch

from modeling_setok import DiffusionHead, SetokimDiffusionConfig

CONFIG = {"hidden_size": 32, "num_residual_blocks": 2, "num_inference_steps": 10}


def random_head(token_dim: int = 3, condition_dim: int = 4, **settings) -> DiffusionHead:
    head = DiffusionHead(SetokimDiffusionConfig(**CONFIG | settings), token_dim, condition_dim)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return head.eval()


def predict(head: DiffusionHead, conditions: torch.Tensor, null: bool = False, timestep: int = 500) -> torch.Tensor:
    count = len(conditions)
    noisy = torch.ones(count, head.token_dim)
    return head(noisy, torch.full((count,), timestep), conditions, torch.full((count,), null))


def test_prediction_depends_on_token_condition_and_timestep():
    head, conditions = random_head(), torch.randn(2, 4)
    base = predict(head, conditions)
    assert base.shape == (2, 3) and not torch.allclose(base[0], base[1])
    assert not torch.allclose(predict(head, conditions, timestep=1), base)
    null = predict(head, conditions, null=True)
    torch.testing.assert_close(null[0], null[1])  # the condition is withheld


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_loss_is_the_error_of_what_is_predicted(monkeypatch, prediction_type):
    head = random_head(prediction_type=prediction_type, timesteps_per_token=5, condition_dropout=0.5)
    tokens, conditions, seen = torch.randn(40, 3), torch.randn(40, 4), {}

    def forward(noisy, timesteps, conditions, is_null, sources):
        seen.update(noisy=noisy, timesteps=timesteps, conditions=conditions, is_null=is_null)
        return torch.zeros_like(noisy)

    monkeypatch.setattr(head, "forward", forward)
    loss = head.loss(tokens, conditions)
    assert torch.equal(seen["conditions"], conditions.repeat(5, 1))
    assert 60 < seen["is_null"].sum() < 140 and len(seen["timesteps"].unique()) > 150
    alpha = head.scheduler().alphas_cumprod[seen["timesteps"]][:, None]
    clean = tokens.repeat(5, 1)
    noise = (seen["noisy"] - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    assert abs(noise.mean()) < 0.15 and 0.9 < noise.std() < 1.1
    target = {
        "epsilon": noise, "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean, "sample": clean
    }[prediction_type]  # fmt: skip
    torch.testing.assert_close(loss.double(), target.double().square().mean(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("shift", "share"), [(1.0, 0.3), (4.0, 0.632), (0.25, 0.097)])
def test_timestep_shift(monkeypatch, shift, share):
    """Noise level t is reached by u = t / (s - (s - 1) t) and below: of all tokens 1 - u are above it."""
    head, seen = random_head(timestep_shift=shift, timesteps_per_token=1), []
    monkeypatch.setattr(head, "forward", lambda noisy, timesteps, *_: seen.append(timesteps) or noisy)
    head.loss(torch.randn(20_000, 3), torch.randn(20_000, 4))
    assert seen[0].min() >= 0 and seen[0].max() < 1000
    assert (seen[0] >= 700).float().mean() == pytest.approx(share, abs=0.02)


def test_every_parameter_gets_a_gradient():
    head = random_head(condition_dropout=0.0)
    head.loss(torch.randn(1, 3), torch.randn(1, 4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


# Each of two conditions has two tokens of its own
TARGETS = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[1.0, -1.0], [-1.0, 1.0]]])


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
def test_learns_a_distribution_for_each_condition(prediction_type):
    torch.manual_seed(1)
    config = SetokimDiffusionConfig(**CONFIG | {"hidden_size": 64, "prediction_type": prediction_type})
    head = DiffusionHead(config, token_dim=2, condition_dim=2)
    torch.nn.init.zeros_(head.null_condition)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(250):
        kinds, choice = torch.randint(2, (64,)), torch.randint(2, (64,))
        loss = head.loss(TARGETS[kinds, choice], torch.eye(2)[kinds])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for kind in range(2):
        sampled = head.sample(torch.eye(2)[[kind] * 100], guidance_scale=1.5)
        distances = (sampled[:, None] - TARGETS[kind]).norm(dim=-1)
        assert (distances.amin(1) < 0.5).float().mean() > 0.9
        counts = distances.argmin(1).bincount(minlength=2)
        assert counts.min() > 10


def test_sampling_a_token_alone():
    head, conditions = random_head(), torch.randn(5, 4)

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in range(5)]

    for options in ({}, {"guidance_scale": 2.0}, {"temperature": 0.3, "num_steps": 3}):
        together = head.sample(conditions, generator=generators(), **options)
        assert together.shape == (5, 3) and together.dtype == torch.float32
        for row, generator in enumerate(generators()):
            alone = head.sample(conditions[row : row + 1], generator=[generator], **options)
            torch.testing.assert_close(together[row], alone[0], rtol=1e-5, atol=1e-5)


def test_sampling_options():
    head, conditions = random_head(), torch.randn(2, 4)

    def sample(seed: int = 0, **options):
        return head.sample(conditions, generator=torch.Generator().manual_seed(seed), **options)

    assert torch.equal(sample(), sample()) and not torch.allclose(sample(), sample(1))
    assert torch.equal(sample(temperature=0.0), sample(1, temperature=0.0))
    assert torch.equal(sample(guidance_scale=1.0), sample())
    assert not torch.allclose(sample(guidance_scale=2.0), sample())
    assert torch.equal(sample(num_steps=10), sample()) and not torch.allclose(sample(num_steps=9), sample())
    null = head.sample(torch.randn(2, 4), generator=torch.Generator().manual_seed(0), guidance_scale=0.0)
    torch.testing.assert_close(null, sample(guidance_scale=0.0))  # the condition plays no part


def test_guidance_by_hand():
    """One step of sampling from pure noise is the predicted clean token."""
    head, conditions = random_head(prediction_type="sample"), torch.randn(2, 4)
    noise = torch.randn((2, 2, 3), generator=torch.Generator().manual_seed(0))[:, 0]
    last, absent = torch.full((2,), 999), torch.tensor([False, False])
    with torch.no_grad():
        with_condition = head(noise, last, conditions, absent)
        without = head(noise, last, conditions, ~absent)
    got = head.sample(conditions, torch.Generator().manual_seed(0), num_steps=1, guidance_scale=3.0)
    torch.testing.assert_close(got, without + 3 * (with_condition - without), rtol=1e-4, atol=1e-4)


def test_bfloat16_head_samples_float32():
    head = random_head().bfloat16()
    assert head.sample(torch.randn(2, 4).bfloat16()).dtype == torch.float32
    assert head.loss(torch.randn(2, 3), torch.randn(2, 4).bfloat16()).dtype == torch.float32
