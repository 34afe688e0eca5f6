"""The parts that tests of Setokim share."""

import copy
import functools

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from processing import SetokimProcessor
from tests.setokim_testing import tiny_processor, tiny_setokim


@pytest.fixture(scope="session")
def processor() -> SetokimProcessor:
    return tiny_processor()


@pytest.fixture(scope="session")
def model_template(processor):
    """Makes a tiny Setokim, always the same."""

    @functools.cache
    def make(kind: str):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return tiny_setokim(processor, kind)

    return make


@pytest.fixture
def make_model(model_template):
    """Gives a tiny Setokim of its own to a test; keywords are values of the configuration."""

    def make(kind: str = "llama", **settings):
        model = copy.deepcopy(model_template(kind))
        for name, value in settings.items():
            setattr(model.config, name, value)
        return model

    return make


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def tiny_llava() -> LlavaForConditionalGeneration:
    """A LLaVA of random weights that sees 32 x 32 pixels as 64 patches."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=4
    )
    text = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=120,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlavaConfig(vision_config=vision, text_config=text, image_seq_length=64)
        return LlavaForConditionalGeneration(config).eval()
