import pytest
import torch
from torch import nn

from training.losses import AdversarialLoss, PatchDiscriminator


class MeanPixel(nn.Module):
    """The logit is the first pixel times a learned weight, here 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, pixel_values):
        return pixel_values[:, :1, :1, :1] * self.weight


def flat(*values):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).clone()


@pytest.mark.parametrize(("size", "num_stages"), [((16, 16), 3), ((16, 16), 4), ((17, 31), 3), ((64, 48), 2)])
def test_discriminator_judges_patches_of_any_image(size, num_stages):
    logits = PatchDiscriminator(base_width=8, num_stages=num_stages)(torch.rand(2, 3, *size))
    assert logits.shape == (2, 1, size[0] >> num_stages, size[1] >> num_stages)
    assert logits.isfinite().all()


def test_discriminator_judges_each_image_alone():
    discriminator, pixels = PatchDiscriminator(base_width=8), torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(discriminator(pixels)[1:2], discriminator(pixels[1:2]))


def test_discriminator_sees_the_mean_colour():
    discriminator = PatchDiscriminator(base_width=8)
    dark, bright = discriminator(flat(-0.8, 0.8))
    assert (dark - bright).abs().max() > 1e-3


def test_discriminator_refuses_what_it_cannot_halve():
    with pytest.raises(ValueError, match="too small"):
        PatchDiscriminator(base_width=8, num_stages=3)(torch.rand(1, 3, 7, 16))
    with pytest.raises(ValueError, match="num_stages"):
        PatchDiscriminator(num_stages=0)


def test_discriminator_loss_by_hand():
    """Real logits 2 and 0.5: hinge mean(0, 0.5) = 0.25. Fake logits -3 and 0: mean(0, 1) = 0.5. Half of the sum."""
    loss = AdversarialLoss(MeanPixel(), lecam_weight=0.1)
    loss.ema_real.fill_(1.0)
    loss.ema_fake.fill_(0.5)
    result = loss(flat(-3.0, 0.0), flat(2.0, 0.5))
    assert result.hinge.item() == pytest.approx(0.375)
    # LeCam: real beyond 0.5: mean(1.5², 0²) = 1.125; fake below 1: mean(4², 1²) = 8.5.
    assert result.lecam.item() == pytest.approx(9.625)
    assert result.loss.item() == pytest.approx(0.375 + 0.1 * 9.625)
    assert result.real_logit.item() == pytest.approx(1.25)
    assert result.fake_logit.item() == pytest.approx(-1.5)
    assert not any(value.requires_grad for value in result[1:])


def test_generator_loss_by_hand():
    assert AdversarialLoss(MeanPixel()).generator_loss(flat(-3.0, 1.0)).item() == pytest.approx(1.0)


def test_running_means_follow_the_logits():
    loss = AdversarialLoss(MeanPixel(), ema_decay=0.9)
    loss(flat(-2.0), flat(1.0))
    assert loss.ema_real.item() == pytest.approx(0.1) and loss.ema_fake.item() == pytest.approx(-0.2)
    loss(flat(-2.0), flat(1.0))
    assert loss.ema_real.item() == pytest.approx(0.19) and loss.ema_fake.item() == pytest.approx(-0.38)
    loss.eval()(flat(5.0), flat(5.0))
    assert loss.ema_real.item() == pytest.approx(0.19), "evaluation must not move the running means"
    loss.generator_loss(flat(5.0))
    assert loss.ema_fake.item() == pytest.approx(-0.38)
    assert AdversarialLoss(MeanPixel()).ema_decay == 0.999


def test_gradients_go_where_they_belong():
    loss = AdversarialLoss(PatchDiscriminator(base_width=8))
    reconstruction, target = torch.rand(2, 3, 16, 16, requires_grad=True), torch.rand(2, 3, 16, 16, requires_grad=True)
    loss.generator_loss(reconstruction).backward()
    assert reconstruction.grad.abs().sum() > 0
    assert all(p.grad is None for p in loss.parameters())
    reconstruction.grad = None
    loss(reconstruction, target).loss.backward()
    assert reconstruction.grad is None and target.grad is None
    assert all(p.grad is not None and p.requires_grad for p in loss.parameters())


def test_two_turns_before_the_backward():
    """The generator's graph must survive the discriminator's turn, running means included."""
    loss = AdversarialLoss(PatchDiscriminator(base_width=8))
    reconstruction = torch.rand(2, 3, 16, 16, requires_grad=True)
    generator, discriminator = loss.generator_loss(reconstruction), loss(reconstruction, torch.rand(2, 3, 16, 16)).loss
    (generator + discriminator).backward()
    assert reconstruction.grad.isfinite().all()


def test_training_tells_real_from_fake():
    loss = AdversarialLoss(PatchDiscriminator(base_width=8, num_stages=2))
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    real, fake = torch.rand(8, 3, 16, 16), torch.rand(8, 3, 1, 1).expand(-1, -1, 16, 16)
    for _ in range(30):
        optimizer.zero_grad()
        result = loss(fake, real)
        result.loss.backward()
        optimizer.step()
    assert result.real_logit > result.fake_logit + 1
    assert result.hinge < 0.2


def test_weight_starts_at_the_start_step():
    loss = AdversarialLoss(MeanPixel(), generator_weight=0.3, start_step=10)
    assert [loss.weight(step) for step in (0, 9, 10, 11)] == [0.0, 0.0, 0.3, 0.3]


def test_fp32_under_autocast():
    loss = AdversarialLoss(PatchDiscriminator(base_width=8)).eval()
    fake, real = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss.generator_loss(fake), loss(fake, real).loss
    assert inside[0].dtype == inside[1].dtype == torch.float32
    assert torch.equal(inside[0], loss.generator_loss(fake)) and torch.equal(inside[1], loss(fake, real).loss)


def test_state_dict_carries_all_that_resuming_needs():
    fake, real = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    loss = AdversarialLoss(PatchDiscriminator(base_width=8))
    loss(fake, real)
    resumed = AdversarialLoss(PatchDiscriminator(base_width=8))
    resumed.load_state_dict(loss.state_dict())
    assert {"ema_real", "ema_fake"} <= loss.state_dict().keys()
    assert torch.equal(resumed(fake, real).loss, loss(fake, real).loss)
    assert torch.equal(resumed.ema_real, loss.ema_real) and torch.equal(resumed.ema_fake, loss.ema_fake)


def _running_means_of_a_process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    loss = AdversarialLoss(MeanPixel(), ema_decay=0.5)
    loss(flat(-4.0 * rank), flat(1.0 + 2 * rank))
    torch.save((loss.ema_real, loss.ema_fake), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_running_means_are_those_of_the_global_batch(tmp_path):
    torch.multiprocessing.spawn(_running_means_of_a_process, (str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        real, fake = torch.load(tmp_path / f"{rank}.pt")
        assert (real.item(), fake.item()) == pytest.approx((1.0, -1.0))
