"""Networks of some thousand random weights that judge pictures, in folders."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
)

from training.data.bpe_tokenizer import train_tokenizer
from training.losses import lpips

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory) -> str:
    """A DINOv2."""
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(1)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4, initializer_range=0.2
    )
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(**SQUARE).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer(["A red square.", "A dog on a blue ground."], vocab_size=280)
    torch.manual_seed(2)
    text = CLIPTextConfig(
        **SMALL,
        vocab_size=len(tokenizer),
        max_position_embeddings=72,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(**SMALL, image_size=16, patch_size=4)
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)).save_pretrained(
        folder
    )
    CLIPImageProcessor(**SQUARE).save_pretrained(folder)
    tokenizer.model_max_length = 72
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def lpips_file(tmp_path: Path, monkeypatch) -> str:
    """Of a network of five stages as narrow as can be; each of the channels has the weight 1."""
    widths = ((4,),) * 5
    monkeypatch.setattr(lpips, "VGG16", widths)
    file = tmp_path / "lpips.safetensors"
    save_file({name: tensor.clone() for name, tensor in lpips.LpipsNetwork(widths).state_dict().items()}, file)
    return str(file)
