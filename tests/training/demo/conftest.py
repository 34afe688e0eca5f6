"""The shipped models, a picture, and a page's workbench."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from modeling_setok import SetokConfig, SetokForPreTraining
from tests.named_setok import named_setok
from tests.training.demo.demo_testing import GRID, NAMES, PROCESSOR, SETOK, SIZE, square_processor
from training.data import SceneConfig, make_scene
from training.demo.models import load_setok, load_setokim
from training.demo.photographs import PhotographModel
from training.demo.workbench import Workbench


@pytest.fixture(scope="session")
def models(setokim_emoji_tiny) -> SimpleNamespace:
    setok, image_processor = load_setok(SETOK)
    setokim, processor = load_setokim(str(setokim_emoji_tiny))
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


@pytest.fixture(scope="session")
def photograph_model() -> PhotographModel:
    """A small one, of random weights, around an encoder of the kind that photographs need: 16 x 16 patches of 14."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    encoder = {"model_type": "dinov2", "num_hidden_layers": 3, "image_size": 224, "patch_size": 14, **small}
    config = SetokConfig(
        vision_config=encoder,
        vision_feature_layer=[1, 2],
        detokenizer_config={"num_hidden_layers": 1, "grid_size": 8, "decoder_channels": [8, 8], **small},
        num_neighbors=4,
        num_inner_layers=1,
        num_inter_layers=1,
        projection_dim=8,
        **small,
    )
    model = SetokForPreTraining(config).eval()
    model.setok.token_clustering.feature_scale.fill_(0.25)
    return PhotographModel(model, square_processor(224))


@pytest.fixture(scope="session")
def photograph_folder(photograph_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("photograph model")
    photograph_model.model.save_pretrained(path)
    photograph_model.image_processor.save_pretrained(path)
    return path
