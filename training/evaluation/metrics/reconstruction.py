"""How near a reconstructed image is to its original. Images are float tensors (B, 3, H, W) with pixels in [0, 1]."""

from collections.abc import Callable

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


class LearnedPerceptualDistance(Metric):
    """{"lpips": from 0}, the mean over images (Zhang et al. 2018: squared distance of the features of a network, each
    channel with a learned weight).

    Args:
        distances: two batches of images (B, 3, H, W) in [0, 1] -> (B,). Published figures are of VGG16 or AlexNet;
            `training.losses.PerceptualLoss` has the former.
    """

    def __init__(self, distances: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self._distances = distances

    @torch.no_grad()
    def _score_batch(self, predictions: Tensor, references: Tensor) -> list[float]:
        check_images(predictions, references)
        return self._distances(predictions, references).tolist()

    def _reduce(self, scores: list[float]) -> dict[str, float]:
        return {"lpips": sum(scores) / len(scores)}


class CellPower(Metric):
    """{"cell_power": from 0, "cell_power_originals": …}: whether the cells in which pictures are painted show as a
    grid. About 1 where they do not, as in the originals; above 2 they are seen.

    What n cells on a side have in common comes n times in each row and column: it has power at the frequency n (cycles
    per picture) and its multiples. The value is the power there, divided by the mean of the powers at the two
    neighbouring frequencies, one cycle more and one less: the largest such ratio of n, 2n, 3n ... up to half a cycle
    per pixel, of two signals. One is the pixels, which show a pattern that all cells share; the other the absolute
    differences of neighbouring pixels, less their mean, which show steps between cells, up or down (Wang, Bovik and
    Evans 2000). The power is |DFT|² of every row and every column of each channel, the mean of all of these over all
    pictures. That of the rounding to 8 bits is added, which gives flat pictures the value 1. A texture of another
    frequency than the cells' goes unseen.

    Predictions and references: square pictures of one size.

    Args:
        cells: n, from 2 to half of the pixels on a side.
    """

    def __init__(self, cells: int):
        super().__init__()
        if cells < 2:
            raise ValueError(f"A grid has 2 cells on a side or more, got {cells}.")
        self._cells = cells

    def _score_batch(self, predictions: Tensor, references: Tensor) -> list[Tensor]:
        check_images(predictions, references)
        *_, height, width = predictions.shape
        if height != width or 2 * self._cells > width:
            raise ValueError(
                f"Pictures must be square, with 2 pixels or more for each of the {self._cells} cells on a side, "
                f"got {height} x {width}."
            )
        spectra = torch.stack([_power_spectra(images.float()) for images in (predictions, references)], dim=1)
        return list(spectra.cpu())

    def _reduce(self, scores: list[Tensor]) -> dict[str, float]:
        if len(sizes := {spectra.shape[-1] for spectra in scores}) > 1:
            raise ValueError(f"All pictures must have one size, got sides of {sorted(sizes)} pixels.")
        size = sizes.pop()
        rounding = 1 / (12 * 255**2)  # the variance of what is rounded away
        power = torch.stack(scores).mean(0) + rounding
        cycles = torch.arange(self._cells, size // 2 + 1, self._cells)
        ratios = 2 * power[..., cycles] / (power[..., cycles - 1] + power[..., cycles + 1])
        painted, originals = ratios.amax((1, 2)).tolist()
        return {"cell_power": painted, "cell_power_originals": originals}


def _power_spectra(images: Tensor) -> Tensor:
    """images (B, 3, S, S) -> (B, 2, S), of their pixels and of their steps the power at 0 to S - 1 cycles per picture;
    white noise has its variance."""
    size = images.shape[-1]
    rows_and_columns = torch.stack([images, images.mT], dim=1)
    steps = rows_and_columns.diff().abs()
    steps = steps - steps.mean(-1, keepdim=True)
    powers = [torch.fft.fft(signal, n=size).abs().square().mean((1, 2, 3)) for signal in (rows_and_columns, steps)]
    return torch.stack(powers, dim=1) / size


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
