"""TRL's own trainers, on folders that are loaded after the import: what they look for to load a model is there."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

import modeling_setok
from modeling_setok import SetokimForConditionalGeneration
from processing import SetokimProcessor
from tests.setokim_testing import pictures, save_emoji_setokim
from training.hub.model_card import shipped_models

LN_2 = 0.6931


@pytest.fixture(scope="module")
def emoji_folder(tmp_path_factory) -> Path:
    save_emoji_setokim(folder := tmp_path_factory.mktemp("emoji"))
    return folder


@pytest.fixture(params=["tiny", "emoji"])
def folder(request, setokim_folder, emoji_folder) -> Path:
    """A model that was saved, and one whose code is not beside it and whose encoder has batch norms."""
    return setokim_folder if request.param == "tiny" else emoji_folder


@pytest.fixture
def settings(tmp_path) -> dict:
    return {
        "output_dir": str(tmp_path), "max_steps": 1, "per_device_train_batch_size": 2, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True,
    }  # fmt: skip


def texts(folder: Path, **columns: str) -> Dataset:
    """Four rows with a picture and a question each, and what the keywords say as answers."""
    size = SetokimProcessor.from_pretrained(folder).image_processor.size["height"]
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    answers = {
        name: [{"role": "assistant", "content": [{"type": "text", "text": text}]}] for name, text in columns.items()
    }
    rows = [{"images": [picture], "prompt": question, **answers} for picture in pictures(4, (size, size))]
    return Dataset.from_list(rows)


def train(trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def load(folder: Path) -> dict:
    return {
        "model": SetokimForConditionalGeneration.from_pretrained(folder),
        "processing_class": SetokimProcessor.from_pretrained(folder),
    }


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}, {"trust_remote_code": False}])
def test_a_folder_without_code_loads_as_the_imported_classes(options, emoji_folder):
    model = AutoModelForImageTextToText.from_pretrained(emoji_folder, **options)
    assert type(model) is SetokimForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(emoji_folder, **options)) is SetokimProcessor


@pytest.mark.parametrize("folder", shipped_models(), ids=lambda folder: folder.name)
def test_a_shipped_configuration_names_the_classes_that_saving_names(folder, tmp_path):
    config = AutoConfig.from_pretrained(folder)
    getattr(modeling_setok, config.architectures[0])(config).save_pretrained(tmp_path)
    assert config.auto_map == AutoConfig.from_pretrained(tmp_path).auto_map


def test_dpo_begins_where_policy_and_reference_are_one(folder, settings):
    """Its first loss is ln 2, in training mode: nothing differs between the model and its second copy."""
    dataset = texts(folder, chosen="A dog.", rejected="Two cats.")
    trainer = DPOTrainer(**load(folder), args=DPOConfig(**settings), train_dataset=dataset)
    assert type(trainer.ref_model) is SetokimForConditionalGeneration
    assert train(trainer) == [pytest.approx(LN_2, abs=1e-3)]


def test_kto_makes_its_reference(folder, settings):
    dataset = texts(folder, completion="A dog.").add_column("label", [True, False, True, False])
    trainer = KTOTrainer(**load(folder), args=KTOConfig(**settings), train_dataset=dataset)
    assert type(trainer.ref_model) is SetokimForConditionalGeneration
    assert train(trainer) == [pytest.approx(0.5, abs=1e-3)]


def test_rloo_makes_its_reference(folder, settings):
    arguments = RLOOConfig(**settings, num_generations=2, max_completion_length=4, beta=0.1)

    def reward(completions, **kwargs):
        return [float(len(completion[0]["content"])) for completion in completions]

    trainer = RLOOTrainer(**load(folder), reward_funcs=reward, args=arguments, train_dataset=texts(folder))
    assert len(train(trainer)) == 1
    assert type(trainer.ref_model) is SetokimForConditionalGeneration


def test_grpo_on_requests_to_draw(folder, settings):
    """It suppresses the tokens of images by itself: the model writes what it otherwise would paint."""
    dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": "Draw: a dog."}]}] * 4)
    arguments = GRPOConfig(**settings, num_generations=2, max_completion_length=6)
    written = []

    def reward(completions, completion_ids, **kwargs):
        written.extend(completion_ids)
        return [float(len(ids)) for ids in completion_ids]

    trainer = GRPOTrainer(**load(folder), reward_funcs=reward, args=arguments, train_dataset=dataset)
    config = trainer.model.config
    trainer.model.generation_config.sequence_bias = {(config.image_start_token_id,): 50.0}  # it would paint at once
    (loss,) = train(trainer)
    assert torch.isfinite(torch.tensor(loss))
    marks = {config.image_start_token_id, config.image_token_id, config.image_end_token_id}
    assert written and all(len(ids) and not marks & set(ids) for ids in written)


def test_sft_by_path(folder, settings):
    dataset = texts(folder, completion="A dog.")
    trainer = SFTTrainer(str(folder), args=SFTConfig(**settings, max_length=None), train_dataset=dataset)
    assert type(trainer.model) is SetokimForConditionalGeneration
    assert type(trainer.processing_class) is SetokimProcessor
    (loss,) = train(trainer)
    assert torch.isfinite(torch.tensor(loss)) and loss > 0
