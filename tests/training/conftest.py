"""Tiny models in folders, as the training scripts take them."""

from pathlib import Path

import pytest
from transformers import set_seed

from processing import SetokimProcessor
from tests.script_testing import write_recipe
from tests.setokim_testing import TINY_HEADS, tiny_processor, tiny_setok, tiny_setokim
from training.data import EmojiScenes, SceneConfig

TEXT_CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
TASKS = ("caption", "text_to_image", "referring", "text_only")


@pytest.fixture(scope="session")
def processor() -> SetokimProcessor:
    return tiny_processor()


@pytest.fixture(scope="session")
def setok_folder(tmp_path_factory, processor) -> Path:
    set_seed(0)
    folder = tmp_path_factory.mktemp("setok")
    tiny_setok().save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def setokim_folder(tmp_path_factory, processor) -> Path:
    set_seed(0)
    folder = tmp_path_factory.mktemp("setokim")
    tiny_setokim(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mixture() -> list[dict]:
    """A recipe's, with a loss of every kind."""
    return [{"dataset": "emoji_scenes", "task": task, "image_size": 24} for task in TASKS]


@pytest.fixture(scope="session")
def rows() -> list[dict]:
    """Caption, text to image, referring, text only; twice."""
    return list(EmojiScenes("train", 8, SceneConfig(image_size=24), tasks=TASKS))


@pytest.fixture(scope="session")
def setokim_recipe(setok_folder, setokim_folder, mixture):
    """Writes the recipe of a few steps into a folder: of "pretrain" for a new Setokim, of "finetune" for a tiny one in
    full, or of "lora"."""
    stages = {
        "pretrain": {
            "setok_model_name_or_path": str(setok_folder), "text_config": TEXT_CONFIG, "tokenizer_vocab_size": 300,
            "config": TINY_HEADS, "calibration_images": 8,
        },
        "finetune": {"model_name_or_path": str(setokim_folder)},
        "lora": {
            "model_name_or_path": str(setokim_folder), "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
        },
    }  # fmt: skip

    def write(stage: str, folder: Path, **overrides) -> Path:
        values = {
            "mixture": mixture, "train_examples": 64, "eval_examples": 0, "max_steps": 4, "save_steps": 2,
            "learning_rate": 0.01, "bf16": False,
        }  # fmt: skip
        return write_recipe(folder, values | stages[stage] | overrides)

    return write
