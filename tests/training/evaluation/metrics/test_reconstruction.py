import pytest
import torch
from torch import nn

from training.evaluation.metrics import FrechetDistance, PeakSignalNoiseRatio, StructuralSimilarity


def test_psnr_of_a_known_error():
    """An error of 0.1 everywhere is 20 dB, of 0.01 is 40 dB; the mean is over images, not over squared errors."""
    references = torch.full((2, 3, 8, 8), 0.5)
    predictions = references + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert PeakSignalNoiseRatio().compute(predictions=predictions, references=references)["psnr"] == pytest.approx(30)


def test_psnr_does_not_depend_on_the_batches():
    predictions, references = torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8)
    metric = PeakSignalNoiseRatio()
    for rows in (slice(0, 1), slice(1, 5)):
        metric.add_batch(predictions=predictions[rows], references=references[rows])
    assert metric.compute()["psnr"] == pytest.approx(
        PeakSignalNoiseRatio().compute(predictions=predictions, references=references)["psnr"]
    )


def test_psnr_of_a_perfect_image_is_infinite():
    images = torch.rand(2, 3, 8, 8)
    assert PeakSignalNoiseRatio().compute(predictions=images, references=images)["psnr"] == float("inf")


def test_ssim_is_one_for_the_same_image_and_falls_with_noise():
    images = torch.rand(2, 3, 16, 16)
    same, near, far = (
        StructuralSimilarity().compute(
            predictions=(images + scale * torch.randn_like(images)).clamp(0, 1), references=images
        )["ssim"]
        for scale in (0, 0.05, 0.5)
    )
    assert same == pytest.approx(1.0)
    assert far < near < same


def test_ssim_of_two_flat_images():
    """No structure, so only the luminance term (2ab + c) / (a² + b² + c) with c = 0.01² is left."""
    a, b = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.7)
    expected = (2 * 0.35 + 1e-4) / (0.25 + 0.49 + 1e-4)
    assert StructuralSimilarity().compute(predictions=a, references=b)["ssim"] == pytest.approx(expected, abs=1e-3)


class MeanColour(nn.Module):
    num_features = 3

    def forward(self, images):
        return images.mean((2, 3))


def flat(colours):
    return colours.view(-1, 3, 1, 1).expand(-1, 3, 4, 4)


def test_frechet_distance_of_known_gaussians():
    """Shift every feature by 0.1 and double its spread: 3 · 0.1² + Σ (2s − s)²."""
    colours = torch.rand(64, 3) * 0.4
    mean = colours.mean(0)
    moved = (colours - mean) * 2 + mean + 0.1
    moved = moved - moved.min().clamp(max=0)
    expected = (moved.mean(0) - mean).square().sum() + colours.var(0).sum()
    metric = FrechetDistance(MeanColour())
    for rows in (slice(0, 10), slice(10, 64)):
        metric.add_batch(predictions=flat(moved[rows]), references=flat(colours[rows]))
    assert metric.compute()["fid"] == pytest.approx(expected.item(), rel=1e-4)
    # Forgets: the same images twice are at distance zero.
    assert metric.compute(predictions=flat(colours), references=flat(colours))["fid"] == pytest.approx(0, abs=1e-6)


def test_frechet_distance_needs_two_images():
    with pytest.raises(ValueError, match="at least two"):
        FrechetDistance(MeanColour()).compute(predictions=torch.rand(1, 3, 4, 4), references=torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize("metric", [PeakSignalNoiseRatio, StructuralSimilarity])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.rand(1, 3, 16, 16) * 2 - 1, "rescale and clamp"),
        (torch.full((1, 3, 16, 16), float("nan")), "rescale and clamp"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "float tensors"),
        (torch.rand(1, 3, 8, 16), "one size"),
    ],
)
def test_refuses_what_are_no_images(metric, bad, message):
    with pytest.raises(ValueError, match=message):
        metric().add_batch(predictions=bad, references=torch.rand(1, 3, 16, 16))
