import pytest
import torch
from torch import nn

from training.evaluation.metrics import (
    CellPower,
    FrechetDistance,
    LearnedPerceptualDistance,
    PeakSignalNoiseRatio,
    StructuralSimilarity,
)


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


def test_learned_perceptual_distance_is_the_mean_over_images():
    metric = LearnedPerceptualDistance(lambda a, b: (a - b).abs().amax((1, 2, 3)))
    references = torch.zeros(3, 3, 8, 8)
    predictions = torch.tensor([0.1, 0.2, 0.6]).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    assert metric.compute(predictions=predictions, references=references) == {"lpips": pytest.approx(0.3)}


def stripes(amplitude, cycles, size=64):
    return amplitude * torch.cos(2 * torch.pi * cycles * torch.arange(size) / size)


def noise(number, deviation, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + deviation * torch.randn(number, 3, size, size, generator=generator)


def test_cell_power_of_a_grid_in_noise():
    """A cosine of amplitude A has the power A²S/4 in a row, and none in a column: the ratio is 1 + A²S/8 / σ²."""
    originals = noise(50, 0.05)
    result = CellPower(8).compute(predictions=originals + stripes(0.05, cycles=8), references=originals)
    assert result["cell_power"] == pytest.approx(1 + 64 / 8, rel=0.05)
    assert result["cell_power_originals"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("cycles", "seen"), [(8, True), (16, True), (32, True), (13, False), (5, False)])
def test_cell_power_sees_the_cells_frequency_and_its_multiples(cycles, seen):
    originals = noise(20, 0.03)
    painted = originals + stripes(0.1, cycles)[:, None]  # from top to bottom
    assert (CellPower(8).compute(predictions=painted, references=originals)["cell_power"] > 5) == seen


def test_cell_power_of_blocks():
    """Cells of one colour each have no power of their pixels at their frequency: the zero of a sum over whole periods.
    Their steps have."""
    colours = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    blocks = torch.nn.functional.interpolate(colours, scale_factor=8)
    smooth = torch.nn.functional.interpolate(colours, size=(64, 64), mode="bicubic").clamp(0, 1)
    assert CellPower(8).compute(predictions=blocks, references=smooth)["cell_power"] > 3
    # Of cells half as large nothing is there
    assert CellPower(7).compute(predictions=blocks, references=smooth)["cell_power"] < 1.5


def test_cell_power_of_flat_pictures_is_one():
    """The rounding to 8 bits, which they do not even have, is all that is left."""
    flat_pictures = torch.full((2, 3, 16, 16), 0.3)
    result = CellPower(4).compute(predictions=flat_pictures, references=flat_pictures)
    assert result == {"cell_power": pytest.approx(1, abs=1e-3), "cell_power_originals": pytest.approx(1, abs=1e-3)}


def test_cell_power_does_not_depend_on_the_batches():
    predictions, references = torch.rand(5, 3, 16, 16), torch.rand(5, 3, 16, 16)
    metric = CellPower(4)
    for rows in (slice(0, 1), slice(1, 5)):
        metric.add_batch(predictions=predictions[rows], references=references[rows])
    whole = CellPower(4).compute(predictions=predictions, references=references)
    assert metric.compute() == pytest.approx(whole, rel=1e-5)


def test_cell_power_refuses_what_it_cannot_measure():
    with pytest.raises(ValueError, match="2 cells on a side or more"):
        CellPower(1)
    for wrong in (torch.rand(1, 3, 16, 8), torch.rand(1, 3, 14, 14)):
        with pytest.raises(ValueError, match="must be square, with 2 pixels or more for each of the 8 cells"):
            CellPower(8).add_batch(predictions=wrong, references=wrong)
    metric = CellPower(4)
    for size in (16, 32):
        metric.add_batch(predictions=torch.rand(1, 3, size, size), references=torch.rand(1, 3, size, size))
    with pytest.raises(ValueError, match=r"one size, got sides of \[16, 32\]"):
        metric.compute()


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
