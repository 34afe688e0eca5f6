"""The parts that tests of Setokim share."""

import copy
import functools

import pytest
import torch

from processing import SetokimProcessor
from tests.setokim_testing import TINY_HEADS, tiny_processor, tiny_setokim


@pytest.fixture(scope="session")
def processor() -> SetokimProcessor:
    return tiny_processor()


@pytest.fixture(scope="session")
def model_template(processor):
    """Makes a tiny Setokim, always the same."""

    @functools.cache
    def make(kind: str, copy_dim: int = 8):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            heads = TINY_HEADS["diffusion_config"] | {"copy_dim": copy_dim}
            return tiny_setokim(processor, kind, diffusion_config=heads)

    return make


@pytest.fixture
def make_model(model_template):
    """Gives a tiny Setokim of its own to a test; keywords are values of the configuration. `copy_dim` is that of the
    diffusion head."""

    def make(kind: str = "llama", copy_dim: int = 8, **settings):
        model = copy.deepcopy(model_template(kind, copy_dim))
        for name, value in settings.items():
            setattr(model.config, name, value)
        return model

    return make


@pytest.fixture
def model(make_model):
    return make_model()
