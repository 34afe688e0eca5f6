"""Adapters by PEFT, on all linear layers or two of each attention: what was trained is what is loaded and merged."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments, set_seed

from modeling_setok import SetokimForConditionalGeneration
from processing import SetokimProcessor
from tests.setokim_testing import pictures, save_emoji_setokim, tiny_processor, tiny_setokim
from training.data import EmojiScenes, SceneConfig
from training.data.setokim_collator import SetokimCollator

TARGETS = {"all-linear": "all-linear", "attention": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module", params=["siglip", "resnet"])
def base(request, tmp_path_factory) -> tuple[str, SetokimProcessor, int]:
    """Folder, processor and image size of tiny models around SigLIP and around a CNN, which has batch norms."""
    set_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "resnet":
        return str(folder), save_emoji_setokim(folder), 64
    processor = tiny_processor()
    tiny_setokim(processor).save_pretrained(folder)
    return str(folder), processor, 24


def load(folder: str) -> SetokimForConditionalGeneration:
    return SetokimForConditionalGeneration.from_pretrained(folder).eval()


def batch_of(processor, size: int) -> tuple[list, dict]:
    """Rows with a loss of every kind, and a batch of them."""
    tasks = ("caption", "text_to_image", "referring", "text_only")
    rows = list(EmojiScenes("train", 8, SceneConfig(image_size=size), tasks=tasks))
    return rows, SetokimCollator(processor)(rows[:4])


def train(model, rows: list, processor, folder) -> None:
    """Some steps with the plain Trainer, which leaves the model in training mode."""
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=2, learning_rate=0.02, use_cpu=True,
        report_to="none", save_strategy="no", remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, data_collator=SetokimCollator(processor), train_dataset=rows).train()


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


def answers(model, processor, size: int) -> tuple[str, np.ndarray, np.ndarray]:
    """A caption, a painting and a mask."""
    (picture,) = pictures(1, (size, size))
    options = {"max_visual_tokens": 2, "generator": torch.Generator().manual_seed(1)}
    return (
        model.caption(processor, picture, max_new_tokens=8),
        np.asarray(model.generate_image(processor, "Draw: a dog.", **options), dtype=np.float32),
        model.segment(processor, picture, "the dog", **options),
    )


@pytest.mark.parametrize("targets", TARGETS)
def test_a_trained_adapter_is_the_same_loaded_and_merged(base, targets, tmp_path):
    folder, processor, size = base
    rows, batch = batch_of(processor, size)
    plain = load(folder)
    before = logits(plain, batch)
    set_seed(0)
    trained = get_peft_model(plain, LoraConfig(r=4, target_modules=TARGETS[targets]))
    assert ("detokenizer.token_projection" in trained.targeted_module_names) == (targets == "all-linear")
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:  # which starts as zero, and stays so where no loss comes by, as in the detokenizer
            torch.nn.init.normal_(parameter, std=0.02)
    train(trained, rows, processor, tmp_path / "run")
    trained.save_pretrained(tmp_path / "adapter")
    trained.eval()
    after, expected = logits(trained, batch), answers(trained, processor, size)
    assert (after - before).abs().max() > 0.01

    loaded = PeftModel.from_pretrained(load(folder), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded, batch), after, rtol=0, atol=0)  # the same operations
    caption, painted, mask = answers(loaded, processor, size)
    assert caption == expected[0]
    np.testing.assert_array_equal(painted, expected[1])
    np.testing.assert_array_equal(mask, expected[2])

    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged, batch), after, rtol=1e-4, atol=1e-4)
    caption, painted, mask = answers(merged, processor, size)
    assert caption == expected[0]
    assert np.abs(painted - expected[1]).max() <= 2  # of 255
    assert (mask == expected[2]).mean() > 0.99
