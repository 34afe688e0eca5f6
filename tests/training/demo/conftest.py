"""The shipped models, a picture, and a page's workbench."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from modeling_setok import SetokConfig, SetokForPreTraining
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
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    vision_config = {"model_type": "siglip_vision_model", "num_hidden_layers": 1, "image_size": SIZE, **small}
    config = SetokConfig(
        vision_config={**vision_config, "patch_size": SIZE // GRID},
        detokenizer_config={"num_hidden_layers": 1, "grid_size": 8, "decoder_channels": [8, 8], **small},
        num_inner_layers=1,
        num_inter_layers=1,
        projection_dim=8,
        text_feature_dim=8,
        concept_names=NAMES,
        **small,
    )
    model = SetokForPreTraining(config)
    model.set_concepts(NAMES, torch.randn(len(NAMES), 8))
    return model.eval()


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    PROCESSOR.save_pretrained(path)
    return path
