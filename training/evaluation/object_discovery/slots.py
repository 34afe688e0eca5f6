"""Slots that reconstruct the frozen features: a small DINOSAUR (arXiv 2209.14860), trained on the world's own scenes.

Slot attention (the package slot-attention) takes the features of all patches, and an MLP with a code of the place
decodes each slot at each patch to features and a mask; the masks of a patch sum to one over the slots, and the largest
one is its segment. Trained here for `SlotTraining.steps` steps, far less than the paper's 500,000: it says what so many
steps on so few scenes give, not what slots can do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from slot_attention import SlotAttention
from torch import nn

from training.evaluation.object_discovery.encoding import Picture


@dataclass(frozen=True)
class SlotTraining:
    """How slots are trained.

    Args:
        num_scenes: training scenes of the world.
        steps: batches.
        batch_size: scenes a batch.
        decoded_patches: patches of a scene that the loss of a step looks at, drawn anew in each; slots see all.
        learning_rate: the highest; it rises for a tenth of the steps, then falls as a cosine.
        slot_dim, hidden_dim: widths of slots, and of both MLPs.
    """

    num_scenes: int = 100
    steps: int = 400
    batch_size: int = 8
    decoded_patches: int = 196
    learning_rate: float = 1e-3
    slot_dim: int = 128
    hidden_dim: int = 256


class SlotModel(nn.Module):
    """Slots of features (N, D) of one grid, and what they decode to."""

    def __init__(self, mean: torch.Tensor, std: torch.Tensor, num_patches: int, num_slots: int, training: SlotTraining):
        super().__init__()
        width, hidden, features = training.slot_dim, training.hidden_dim, len(mean)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.encode = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
        self.slot_attention = SlotAttention(num_slots, dim=width, hidden_dim=hidden)
        self.places = nn.Parameter(torch.randn(num_patches, width))
        self.decode = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, features + 1)
        )

    def normalise(self, features: torch.Tensor) -> torch.Tensor:
        """Features less their mean over the training scenes, in units of their standard deviation: what is
        reconstructed."""
        return (features - self.mean) / self.std

    def forward(self, features: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised features (B, N, D) and indices (P,) of patches to the reconstruction there, (B, P, D), and the
        slots' masks (B, S, P)."""
        slots = self.slot_attention(self.encode(features))
        decoded = self.decode(slots[:, :, None] + self.places[patches])  # (B, S, P, D + 1)
        masks = decoded[..., -1].softmax(dim=1)
        return (decoded[..., :-1] * masks[..., None]).sum(1), masks


@dataclass(frozen=True, eq=False)
class Slots:
    """A trained model as a method: the segments are its slots, whatever number is asked for."""

    model: SlotModel

    @torch.no_grad()
    def __call__(self, picture: Picture, num_segments: int, seed: int) -> np.ndarray:
        with torch.random.fork_rng():  # slots start from noise
            torch.manual_seed(seed)
            patches = torch.arange(len(picture.features))
            _, masks = self.model(self.model.normalise(picture.features)[None], patches)
        return masks[0].argmax(0).numpy().reshape(picture.grid_size)


def train_slots(features: Sequence[torch.Tensor], num_slots: int, training: SlotTraining, seed: int) -> Slots:
    """Slots for features (N, D) of training scenes, all of one grid."""
    stacked = torch.stack(list(features))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        channels = stacked.flatten(0, 1)
        model = SlotModel(channels.mean(0), channels.std().clamp(min=1e-6), stacked.shape[1], num_slots, training)
        optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, training.learning_rate, total_steps=training.steps, pct_start=0.1
        )
        for _ in range(training.steps):
            batch = model.normalise(stacked[torch.randint(len(stacked), (training.batch_size,))])
            patches = torch.randperm(stacked.shape[1])[: training.decoded_patches]
            reconstruction, _ = model(batch, patches)
            loss = nn.functional.mse_loss(reconstruction, batch[:, patches])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return Slots(model.eval())
