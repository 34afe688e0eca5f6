from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from safetensors.torch import save_file
from skimage import data, filters, transform

from training.losses import PerceptualLoss, lpips
from training.losses.lpips import LpipsNetwork
from training.packaged_models import lpips_vgg

FILE = Path(__file__).parents[3] / lpips_vgg.FILE


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A file with a network of two stages, random, and channels that weigh 0, 1, 2, ..."""
    monkeypatch.setattr(lpips, "VGG16", ((4, 4), (6,)))
    network = LpipsNetwork(lpips.VGG16)
    for channels in network.channels:
        channels.data = torch.arange(float(len(channels)))
    save_file(network.state_dict(), tmp_path / "lpips.safetensors")
    return network, str(tmp_path / "lpips.safetensors")


def images(batch=2):
    return torch.rand(batch, 3, 16, 16) * 2 - 1


def test_value_of_one_pixel_by_hand():
    """One convolution that passes the colours on, whose weights are 1, 2, 3. Of one pixel the direction turns from
    (1, 0, 0) to (0, 1, 0): 1 · 1 + 2 · 1; of the other 15 it stays."""
    network = LpipsNetwork([(3,)])
    with torch.no_grad():
        network.stages[0][0].weight.zero_()[range(3), range(3), 1, 1] = 1
        network.stages[0][0].bias.zero_()
        network.channels[0].copy_(torch.tensor([1.0, 2, 3]))
    red = torch.tensor([0.5, -1, -1]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    other = red.clone()
    other[0, :, 2, 1] = torch.tensor([-1, 0.2, -1])
    loss = PerceptualLoss(network, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    assert loss.distances(other, red).tolist() == pytest.approx([3 / 16, 0])
    assert loss(other, red).item() == pytest.approx(3 / 32)


def test_stages_are_summed_and_chosen(tiny):
    _, file = tiny
    a, b = images(), images()
    each = [PerceptualLoss.lpips(file, layers=[stage]).distances(a, b) for stage in (1, 2)]
    both = PerceptualLoss.from_pretrained(file)
    torch.testing.assert_close(both.distances(a, b), each[0] + each[1])
    torch.testing.assert_close(PerceptualLoss.lpips(file, layers=[-1]).distances(a, b), each[1])
    assert both.distances(a, a).tolist() == [0, 0]


def test_resolution_halves_between_stages_and_nothing_is_negative(tiny):
    network, _ = tiny
    hidden_states = network(images()).hidden_states
    assert [tuple(hidden.shape) for hidden in hidden_states] == [(2, 3, 16, 16), (2, 4, 16, 16), (2, 6, 8, 8)]
    assert all((hidden >= 0).all() for hidden in hidden_states[1:])


def test_is_a_frozen_loss_with_a_gradient_for_the_reconstruction(tiny):
    _, file = tiny
    loss = PerceptualLoss.from_pretrained(file, max_shift=2)
    reconstruction, target = images().requires_grad_(), images().requires_grad_()
    loss(reconstruction, target).backward()
    assert reconstruction.grad.isfinite().all() and reconstruction.grad.abs().sum() > 0 and target.grad is None
    assert list(loss.parameters()) == [] and not any(p.requires_grad for p in loss.feature_network.parameters())


def test_refuses_files_of_something_else(tiny, tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("text", "other", "missing"):
        with pytest.raises(ValueError, match="python -m training.packaged_models.lpips_vgg fetches"):
            PerceptualLoss.from_pretrained(str(tmp_path / f"{name}.safetensors"))


@pytest.fixture(scope="module")
def real() -> PerceptualLoss:
    if not FILE.exists():
        pytest.skip(f"{lpips_vgg.COMMAND} has not been run")
    return PerceptualLoss.lpips(FILE)


def test_published_channel_weights(real):
    """Those of torchmetrics are copied from `lpips` 0.1.4."""
    folder = Path(torchmetrics.functional.image.__file__).parent / "lpips_models"
    published = torch.load(folder / "vgg.pth", map_location="cpu", weights_only=True)
    for stage, channels in enumerate(real.feature_network.channels):
        assert torch.equal(channels, published[f"lin{stage}.model.1.weight"].flatten())


@pytest.mark.slow
def test_distances_of_photographs(real):
    """As the package in JAX and `lpips` have them."""
    astronaut, coffee = (
        transform.resize(picture, (256, 256), anti_aliasing=True) for picture in (data.astronaut(), data.coffee())
    )
    others = [astronaut, filters.gaussian(astronaut, 4, channel_axis=2), coffee]
    pixels = torch.tensor(np.stack(others), dtype=torch.float32).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        distances = real.distances(pixels, pixels[:1].expand_as(pixels))
    assert distances.tolist() == pytest.approx([0, 0.475, 0.767], abs=0.002)
