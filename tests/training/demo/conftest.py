"""The shipped models, a picture, and a page's workbench."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from modeling_setok import SetokForPreTraining
from tests.named_setok import named_setok
from tests.training.demo.demo_testing import GRID, NAMES, PROCESSOR, SETOK, SETOKIM, SIZE
from training.data import SceneConfig, make_scene
from training.demo.models import load_setok, load_setokim
from training.demo.workbench import Workbench


@pytest.fixture(scope="session")
def models() -> SimpleNamespace:
    setok, image_processor = load_setok(SETOK)
    setokim, processor = load_setokim(SETOKIM)
    return SimpleNamespace(setok=setok, image_processor=image_processor, setokim=setokim, processor=processor)


@pytest.fixture(scope="session")
def bench(models) -> Workbench:
    return Workbench(models.setok, models.image_processor, models.setokim, models.processor)


@pytest.fixture(scope="session")
def scene() -> Image.Image:
    """A tropical fish, a panda face and an owl; it is none of the examples."""
    return Image.fromarray(make_scene("test", 5, SceneConfig(image_size=64)).image)


@pytest.fixture(scope="session")
def file(scene, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    scene.save(path)
    return str(path)


@pytest.fixture(scope="session")
def broken_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "broken.png"
    path.write_text("This is no picture.")
    return str(path)


@pytest.fixture(scope="session")
def model() -> SetokForPreTraining:
    """A small one, of random weights."""
    torch.manual_seed(0)
    return named_setok(NAMES, SIZE, GRID).eval()


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    PROCESSOR.save_pretrained(path)
    return path
