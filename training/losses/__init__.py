"""Losses of the reconstruction that the model itself does not compute."""

from training.losses.adversarial import AdversarialLoss, DiscriminatorLoss, PatchDiscriminator
from training.losses.perceptual import PerceptualLoss

__all__ = ["AdversarialLoss", "DiscriminatorLoss", "PatchDiscriminator", "PerceptualLoss"]
