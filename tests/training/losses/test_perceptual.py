import pytest
import torch
from torch import nn
from transformers import ConvNextV2Config, ConvNextV2Model, SiglipVisionConfig, SiglipVisionModel
from transformers.modeling_outputs import BaseModelOutput

from training.losses import PerceptualLoss


class PixelsAsFeatures(nn.Module):
    """Layer 1 and 2 are the pixels (B, 3, H, W), layer 2 with the sign of the first channel turned."""

    def forward(self, pixel_values, output_hidden_states):
        turned = pixel_values * torch.tensor([-1.0, 1, 1]).view(-1, 1, 1)
        return BaseModelOutput(hidden_states=(torch.zeros_like(pixel_values), pixel_values, turned))


def siglip():
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
        )
    )


def convnext():
    config = ConvNextV2Config(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=32)
    return ConvNextV2Model(config)


def images(size=16, batch=2):
    return torch.rand(batch, 3, size, size) * 2 - 1


def test_value_by_hand():
    """Half of the positions turn by 90 degrees (squared distance 2), the other half not at all."""
    red, green = torch.tensor([0.5, 0, 0]).view(1, 3, 1, 1), torch.tensor([0, 0.25, 0]).view(1, 3, 1, 1)
    target = red.expand(2, 3, 4, 4)
    reconstruction = torch.cat([target[:, :, :2], green.expand(2, 3, 2, 4)], dim=2)
    loss = PerceptualLoss(PixelsAsFeatures())
    assert loss(reconstruction, target).item() == pytest.approx(1.0)
    assert loss(-target, target).item() == pytest.approx(4.0)
    assert loss(target * 1.7, target).item() == pytest.approx(0.0, abs=1e-6)  # length does not count


def test_layers_are_chosen():
    target = torch.tensor([0.5, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    # Layer 0 is all zeros: nothing to tell two images apart.
    assert PerceptualLoss(PixelsAsFeatures(), layers=[0])(-target, target).item() == 0
    assert PerceptualLoss(PixelsAsFeatures(), layers=[0, 1])(-target, target).item() == pytest.approx(2.0)


def test_both_images_are_shifted_alike_and_by_no_more_than_the_limit():
    """The network sees the picture from wherever its corner ended up: the value of each corner is its place."""
    corners = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 3, 8, 8) / 64
    seen = []

    class Spy(PixelsAsFeatures):
        def forward(self, pixel_values, output_hidden_states):
            seen.append(round(float(pixel_values[0, 0, 0, 0]) * 128 - 64))
            return super().forward(pixel_values, output_hidden_states)

    loss = PerceptualLoss(Spy(), image_mean=[0.0] * 3, image_std=[1.0] * 3, max_shift=2)
    for _ in range(100):
        assert loss(corners, corners).item() == pytest.approx(0.0, abs=1e-6)
    assert seen[0::2] == seen[1::2]
    # Rolled down by y and to the right by x, the first corner shows what was y rows and x columns before it
    assert set(seen) == {(-y % 8) * 8 + (-x % 8) for y in range(3) for x in range(3)}
    with pytest.raises(ValueError, match="max_shift must not be negative"):
        PerceptualLoss(PixelsAsFeatures(), max_shift=-1)


def test_normalisation_is_the_networks():
    """(x + 1) / 2 is 0.75 and 0.25; less a mean of 0.25 it is 0.5 and 0: a zero feature is at distance 1 from any."""
    loss = PerceptualLoss(PixelsAsFeatures(), image_mean=[0.25] * 3, image_std=[2.0] * 3)
    assert loss(torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), -0.5)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("network", [siglip, convnext])
def test_zero_for_perfect_reconstruction_and_grows_with_noise(network):
    loss, target = PerceptualLoss(network()), images()
    noise = torch.randn_like(target)
    values = [loss(target + scale * noise, target).item() for scale in (0, 0.05, 0.5)]
    assert values[0] == 0
    assert values[0] < values[1] < values[2] < 4


@pytest.mark.parametrize("network", [siglip, convnext])
def test_gradient_reaches_the_reconstruction_only(network):
    original = network()
    loss = PerceptualLoss(original)
    reconstruction, target = images().requires_grad_(), images().requires_grad_()
    loss(reconstruction, target).backward()
    assert reconstruction.grad.abs().amin(dim=(1, 2, 3)).isfinite().all() and reconstruction.grad.abs().sum() > 0
    assert target.grad is None
    assert all(p.grad is None and not p.requires_grad for p in loss.feature_network.parameters())
    assert all(p.requires_grad for p in original.parameters()), "the caller's network must stay trainable"


def test_network_is_a_frozen_copy_outside_the_module_tree():
    network = siglip()
    loss, reconstruction, target = PerceptualLoss(network), images(), images()
    before = loss(reconstruction, target)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    loss.train()
    assert torch.equal(loss(reconstruction, target), before)
    assert not loss.feature_network.training
    assert list(loss.parameters()) == [] and loss.state_dict() == {}


def test_moves_with_the_module_and_stays_fp32():
    loss = PerceptualLoss(siglip()).to(torch.bfloat16)
    assert {p.dtype for p in loss.feature_network.parameters()} == {torch.float32}
    assert {p.device.type for p in PerceptualLoss(siglip()).to("meta").feature_network.parameters()} == {"meta"}


def test_fp32_under_autocast():
    loss, reconstruction, target = PerceptualLoss(siglip()), images(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(reconstruction, target)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(reconstruction, target))


def test_any_image_size_is_resized_to_the_networks():
    """Two images that differ by less than the resize can see are the same to a network of a quarter of the size."""
    target = torch.zeros(1, 3, 64, 64)
    checkerboard = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1
    loss = PerceptualLoss(siglip())
    assert loss(target + 0.5 * checkerboard, target).item() < 1e-4
    assert loss(target + 0.5, target).item() > 1e-3


def test_a_network_can_look_at_images_of_another_size_than_its_own():
    looked_at = []
    network = convnext()
    network.register_forward_pre_hook(lambda _, inputs: looked_at.append(inputs[0].shape[-2:]))
    for size in (None, 64):
        PerceptualLoss(network, image_size=size)(images(16), images(16))
    assert [tuple(shape) for shape in looked_at] == [(32, 32)] * 2 + [(64, 64)] * 2


def test_from_pretrained(tmp_path):
    network = convnext()
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="image_mean"):
        PerceptualLoss.from_pretrained(tmp_path)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    (tmp_path / "preprocessor_config.json").write_text(f'{{"image_mean": {mean}, "image_std": {std}}}')
    reconstruction, target = images(32), images(32)
    loaded = PerceptualLoss.from_pretrained(tmp_path)(reconstruction, target)
    assert torch.equal(loaded, PerceptualLoss(network, image_mean=mean, image_std=std)(reconstruction, target))


def test_refuses_images_of_two_shapes():
    with pytest.raises(ValueError, match="resize the target"):
        PerceptualLoss(siglip())(images(16), images(32))
