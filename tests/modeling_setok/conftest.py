"""The parts that tests of Setokim share."""

import copy
import functools

import pytest
import torch

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
