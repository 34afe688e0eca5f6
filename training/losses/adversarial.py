"""Adversarial loss: a PatchGAN discriminator with hinge losses and LeCam regularisation."""

from math import gcd
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017): every output judges one patch of the image.

    Plain convolutions with GroupNorm, which judges each image alone whatever the batch. The width doubles at each
    stage up to eight times `base_width`.

    Args:
        num_channels: channels of the image.
        base_width: channels after the first stage.
        num_stages: number of halvings of the image.
    """

    def __init__(self, num_channels: int = 3, base_width: int = 128, num_stages: int = 3):
        super().__init__()
        if num_stages < 1:
            raise ValueError(f"num_stages must be at least 1, got {num_stages}.")
        self.num_stages = num_stages
        widths = [base_width * min(2**stage, 8) for stage in range(num_stages + 1)]
        # No norm in the first stage: it would erase the image's mean colour.
        layers = [nn.Conv2d(num_channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for stage, (width, next_width) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            conv = (
                nn.Conv2d(width, next_width, 4, stride=2, padding=1)
                if stage < num_stages
                else nn.Conv2d(width, next_width, 3, padding=1)
            )
            layers += [conv, nn.GroupNorm(gcd(8, next_width), next_width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (B, C, H, W) -> logits (B, 1, H / 2^num_stages, W / 2^num_stages), high where it looks real."""
        if min(pixel_values.shape[-2:]) < 2**self.num_stages:
            raise ValueError(
                f"An image of {tuple(pixel_values.shape[-2:])} pixels is too small to be halved {self.num_stages} "
                "times; use larger images or fewer stages."
            )
        return self.layers(pixel_values)


class DiscriminatorLoss(NamedTuple):
    """`loss` is to be minimised by the discriminator; the rest is for the log, without gradient. All scalars."""

    loss: Tensor
    hinge: Tensor
    lecam: Tensor
    real_logit: Tensor
    fake_logit: Tensor


class AdversarialLoss(nn.Module):
    """Hinge losses for discriminator and generator, in fp32 also under autocast.

    `forward` is the discriminator's turn, so that wrapping this module in DistributedDataParallel synchronises its
    gradients; `generator_loss` is the generator's turn and leaves the discriminator without gradients.

    LeCam (Tseng et al. 2021) holds the logits of real images near the running mean of those of fakes and the other way
    round, which keeps the discriminator from winning on few data. The running means are saved in the state dict and
    are those of the global batch when several processes train.

    Args:
        discriminator: images (B, C, H, W) -> logits of any shape.
        generator_weight: weight of the generator's loss once it has started.
        start_step: the first step at which the loss counts; the caller skips both turns while `weight(step)` is 0.
        lecam_weight: weight of the LeCam term in the discriminator's loss.
        ema_decay: decay of the running means.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        generator_weight: float = 0.1,
        start_step: int = 0,
        lecam_weight: float = 0.001,
        ema_decay: float = 0.999,
    ):
        super().__init__()
        self.discriminator = discriminator
        self.generator_weight = generator_weight
        self.start_step = start_step
        self.lecam_weight = lecam_weight
        self.ema_decay = ema_decay
        self.register_buffer("ema_real", torch.zeros(()))
        self.register_buffer("ema_fake", torch.zeros(()))

    def weight(self, step: int) -> float:
        """Weight of the generator's loss at a step: 0 before `start_step`."""
        return self.generator_weight if step >= self.start_step else 0.0

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        """reconstruction (B, C, H, W) -> scalar, −mean D(reconstruction), unweighted. Only the reconstruction gets a
        gradient."""
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        with torch.autocast(reconstruction.device.type, enabled=False):
            return -functional_call(self.discriminator, frozen, (reconstruction.float(),)).mean()

    def forward(self, reconstruction: Tensor, target: Tensor) -> DiscriminatorLoss:
        """reconstruction, target (B, C, H, W) -> the discriminator's loss. No gradient reaches either image. In
        training mode the running means take one step, after they were used."""
        with torch.autocast(reconstruction.device.type, enabled=False):
            # One pass over both, because DistributedDataParallel expects one forward per backward.
            images = torch.cat([target, reconstruction]).detach().float()
            real, fake = self.discriminator(images).split([len(target), len(reconstruction)])
            hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
            lecam = F.relu(real - self.ema_fake).square().mean() + F.relu(self.ema_real - fake).square().mean()
            loss = hinge + self.lecam_weight * lecam
        means = torch.stack([real.detach().mean(), fake.detach().mean()])
        if self.training:
            self._update_running_means(means)
        return DiscriminatorLoss(loss, hinge.detach(), lecam.detach(), *means)

    @torch.no_grad()
    def _update_running_means(self, means: Tensor) -> None:
        if dist.is_available() and dist.is_initialized():
            means = means.clone()
            dist.all_reduce(means)
            means /= dist.get_world_size()
        self.ema_real.lerp_(means[0], 1 - self.ema_decay)
        self.ema_fake.lerp_(means[1], 1 - self.ema_decay)
