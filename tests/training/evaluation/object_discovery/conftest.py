import pytest
import torch
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    """A DINOv2 of random weights with 8 x 8 patches, and its image processor."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, image_size=32, patch_size=4
    )
    Dinov2Model(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    BitImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return str(folder)
