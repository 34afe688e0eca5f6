"""How near a reconstructed image is to its original. Images are float tensors (B, 3, H, W) with pixels in [0, 1]."""

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance

from training.evaluation.metrics.base import Metric


def check_images(*batches: Tensor) -> None:
    """Raises a ValueError unless all are float tensors (B, 3, H, W) of one size, with pixels in [0, 1]."""
    for images in batches:
        if not images.is_floating_point() or images.ndim != 4:
            raise ValueError(
                f"Images must be float tensors (B, 3, H, W), got {images.dtype} of shape {tuple(images.shape)}."
            )
        # Written so that NaN fails it.
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"Pixels must be in [0, 1], got {images.min():.3g} to {images.max():.3g}; rescale and clamp them first."
            )
    if len({images.shape[1:] for images in batches}) > 1:
        raise ValueError(f"Images must have one size, got {[tuple(images.shape) for images in batches]}.")


class PeakSignalNoiseRatio(Metric):
    """{"psnr": dB}, the mean over images of each image's own PSNR, with peak 1; inf if an image is perfect."""

    def _score_batch(self, predictions: Tensor, references: Tensor) -> list[float]:
        check_images(predictions, references)
        return peak_signal_noise_ratio(
            predictions.float(), references.float(), data_range=1.0, reduction="none", dim=(1, 2, 3)
        ).tolist()

    def _reduce(self, scores: list[float]) -> dict[str, float]:
        return {"psnr": sum(scores) / len(scores)}


class StructuralSimilarity(Metric):
    """{"ssim": up to 1}, the mean over images (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5)."""

    def _score_batch(self, predictions: Tensor, references: Tensor) -> list[float]:
        check_images(predictions, references)
        scores = structural_similarity_index_measure(
            predictions.float(), references.float(), data_range=1.0, reduction="none"
        )
        return scores.reshape(-1).tolist()  # one image comes back without a batch axis

    def _reduce(self, scores: list[float]) -> dict[str, float]:
        return {"ssim": sum(scores) / len(scores)}


class FrechetDistance(Metric):
    """{"fid": from 0}: Fréchet distance between the features of predictions and references (Heusel et al. 2017); rFID
    where the predictions are the references' reconstructions. Keeps sums in fp64 only, so any number of images fits.

    Args:
        feature_network: images (B, 3, H, W) in [0, 1] -> features (B, D). Only with Inception-v3 (the default, which
            needs the package torch-fidelity) can the result be compared with published figures.
    """

    def __init__(self, feature_network: nn.Module | int = 2048):
        super().__init__()
        self._fid = FrechetInceptionDistance(feature=feature_network, normalize=True)

    @torch.no_grad()
    def _score_batch(self, predictions: Tensor, references: Tensor) -> list[None]:
        check_images(predictions, references)
        self._fid.to(predictions.device)
        self._fid.update(predictions.float(), real=False)
        self._fid.update(references.float(), real=True)
        return [None] * len(predictions)  # a set of images has a distance, an image has none

    def _reduce(self, scores: list[None]) -> dict[str, float]:
        if len(scores) < 2:
            raise ValueError("The Fréchet distance needs at least two images on each side.")
        fid = self._fid.compute().item()
        self._fid.reset()
        return {"fid": fid}
