"""Perceptual loss: distance of two images in the feature space of a frozen vision network."""

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel
from transformers.models.auto.image_processing_auto import get_image_processor_config

from training.losses.lpips import LpipsNetwork

# Features shorter than this count as zero, which bounds the gradient where a network is silent.
SMALLEST_NORM = 1e-3


class PerceptualLoss(nn.Module):
    """Squared distance of unit-normalised features, averaged over positions, layers and images (as in LPIPS,
    Zhang et al. 2018, without learned channel weights). A scalar between 0 (same features) and 4 (opposite features).
    Of an `LpipsNetwork`, which has such weights, it is LPIPS itself, the sum over layers, from 0 without an upper end.

    The network is copied, frozen, and kept out of the module tree: it is never trained, saved or put in training mode,
    while `.to(device)` still moves it. It and the loss run in fp32, also under autocast.

    Any callable `(reconstruction, target) -> scalar`, such as LPIPS, can take this loss's place.

    Args:
        feature_network: a transformers vision model: `network(pixel_values, output_hidden_states=True)` gives
            `hidden_states`, each (B, N, D) or (B, D, h, w). The SeTok's own vision encoder will do.
        layers: indices into `hidden_states`; all but the first (the patch embeddings) if not given.
        image_mean, image_std: per channel normalisation that the network expects of pixels in [0, 1].
        max_shift: both images are rolled by the same random number of pixels, 0 to this in each direction. A network
            with strides is blind to some patterns at fixed places; without shifts they would be painted.
        image_size: side in pixels to which images are resized; by default the network's `config.image_size`, where it
            has one. A network that takes any size costs less at a smaller one.
    """

    def __init__(
        self,
        feature_network: nn.Module,
        layers: Sequence[int] | None = None,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        max_shift: int = 0,
        image_size: int | None = None,
    ):
        super().__init__()
        if max_shift < 0:
            raise ValueError(f"max_shift must not be negative, got {max_shift}.")
        self.max_shift = max_shift
        # Through __dict__, because nn.Module would register an attribute that is a module.
        self.__dict__["feature_network"] = deepcopy(feature_network).float().eval().requires_grad_(False)
        self.layers = None if layers is None else tuple(layers)
        self.has_channel_weights = isinstance(feature_network, LpipsNetwork)
        self.image_size = image_size or getattr(getattr(feature_network, "config", None), "image_size", None)
        self.register_buffer("image_mean", torch.tensor(image_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(image_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def lpips(
        cls, file: str, layers: Sequence[int] | None = None, max_shift: int = 0, image_size: int | None = None
    ) -> "PerceptualLoss":
        """LPIPS with VGG16, of the file (.safetensors) that `training.packaged_models.lpips_vgg` writes. The layers are
        its stages, 1 to 5."""
        network = LpipsNetwork.from_file(file)
        return cls(network, layers, network.image_mean, network.image_std, max_shift, image_size)

    @classmethod
    def from_pretrained(
        cls, name: str, layers: Sequence[int] | None = None, max_shift: int = 0, image_size: int | None = None
    ) -> "PerceptualLoss":
        """Loads a vision network, or the vision half of a CLIP-like model, from the Hub or a folder; or `lpips`, from
        its file."""
        if str(name).endswith(".safetensors"):
            return cls.lpips(name, layers, max_shift, image_size)
        model, loading = AutoModel.from_pretrained(name, output_loading_info=True)
        if missing := sorted(key for key in loading["missing_keys"] if "pooler" not in key):  # which is not run
            raise ValueError(f"{name} lacks weights of its network, such as {missing[0]}: name a whole model.")
        processor = get_image_processor_config(name)
        if not {"image_mean", "image_std"} <= processor.keys():
            raise ValueError(
                f"{name!r} has no image processor with image_mean and image_std, so the normalisation that the network "
                "expects is unknown; load it yourself and call PerceptualLoss(network, image_mean=…, image_std=…)."
            )
        network = getattr(model, "vision_model", model)
        return cls(network, layers, processor["image_mean"], processor["image_std"], max_shift, image_size)

    def _apply(self, fn, recurse=True):
        self.feature_network._apply(fn, recurse).float()
        return super()._apply(fn, recurse)

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """reconstruction, target (B, 3, H, W), pixels in [-1, 1] -> scalar, fp32. Only the reconstruction gets a
        gradient."""
        return self.distances(reconstruction, target).mean()

    def distances(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """The same of each image alone: (B,)."""
        if reconstruction.shape != target.shape:
            raise ValueError(
                f"reconstruction {tuple(reconstruction.shape)} and target {tuple(target.shape)} must have one shape; "
                "resize the target to the size of the reconstruction."
            )
        if self.max_shift:
            shifts = torch.randint(self.max_shift + 1, (2,)).tolist()
            reconstruction, target = (image.roll(shifts, dims=(2, 3)) for image in (reconstruction, target))
        with torch.autocast(reconstruction.device.type, enabled=False):
            with torch.no_grad():
                target_features = self._features(target)
            features = self._features(reconstruction)
            distances = [(a - b).square().sum(-1).mean(1) for a, b in zip(features, target_features, strict=True)]
            distances = torch.stack(distances)
            return distances.sum(0) if self.has_channel_weights else distances.mean(0)

    def _features(self, pixels: Tensor) -> list[Tensor]:
        """pixels (B, 3, H, W) in [-1, 1] -> per layer, unit vectors (B, positions, channels), times the roots of their
        weights."""
        pixels = ((pixels.float() + 1) / 2 - self.image_mean.float()) / self.image_std.float()
        if self.image_size is not None:
            size = (self.image_size, self.image_size) if isinstance(self.image_size, int) else tuple(self.image_size)
            if pixels.shape[-2:] != size:
                pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        hidden_states = self.feature_network(pixels, output_hidden_states=True).hidden_states
        if hidden_states is None:
            raise ValueError(
                f"{type(self.feature_network).__name__} gives no hidden_states; use a vision model that does."
            )
        layers = range(1, len(hidden_states)) if self.layers is None else self.layers
        if not all(-len(hidden_states) <= layer < len(hidden_states) for layer in layers):
            raise ValueError(f"layers of the perceptual loss are 0 to {len(hidden_states) - 1}, got {[*layers]}.")
        chosen = [hidden_states[layer] for layer in layers]
        units = [F.normalize(h.flatten(2).mT if h.ndim == 4 else h, dim=-1, eps=SMALLEST_NORM) for h in chosen]
        if not self.has_channel_weights:
            return units
        weights = self.feature_network.channel_weights
        return [unit * weights[layer].sqrt() for unit, layer in zip(units, layers, strict=True)]
