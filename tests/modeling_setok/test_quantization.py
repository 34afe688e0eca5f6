"""The shipped Setokim with its language model in 8 or 4 bits: `from_pretrained` leaves all else as it is by itself."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from modeling_setok import SetokimForConditionalGeneration, SetokimModel
from processing import SetokimProcessor
from tests.quantization_testing import needs_bitsandbytes, torchao_int8
from tests.setokim_testing import tiny_processor, tiny_setokim
from training.data import EmojiScenes

# Of the paintings' pixels, in 255: the mean difference up to which they count as the same picture
FORMATS = [
    pytest.param(lambda: BitsAndBytesConfig(load_in_8bit=True), 1.0, id="8bit", marks=needs_bitsandbytes),
    pytest.param(
        lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"), 4.0, id="4bit",
        marks=needs_bitsandbytes,
    ),
    pytest.param(torchao_int8, 1.0, id="torchao"),
]  # fmt: skip


@pytest.fixture(scope="module")
def processor(setokim_emoji_tiny) -> SetokimProcessor:
    return SetokimProcessor.from_pretrained(setokim_emoji_tiny)


def answers(model, processor) -> tuple[list[str], np.ndarray, list[np.ndarray]]:
    """Of test scenes: captions, paintings of a sentence, masks."""
    scenes = [EmojiScenes("test", 20)[index]["images"][0] for index in range(4, 8)]
    rows = [EmojiScenes("test", 20, tasks=("referring",))[index] for index in range(2)]
    expressions = [row["messages"][0]["content"][-1]["text"].removeprefix("Segment ").rstrip(".") for row in rows]
    prompts = ["Draw: a red car, an owl and a cupcake on a plain blue background."] * 2
    painted = model.generate_image(processor, prompts, generator=torch.Generator().manual_seed(0))
    masks = model.segment(processor, [row["images"][0] for row in rows], expressions)
    return model.caption(processor, scenes), np.stack(painted).astype(np.float32), masks


@pytest.fixture(scope="module")
def expected(setokim_emoji_tiny, processor):
    return answers(AutoModelForImageTextToText.from_pretrained(setokim_emoji_tiny).eval(), processor)


@pytest.mark.parametrize(("make_config", "tolerance"), FORMATS)
def test_answers_are_the_plain_models(make_config, tolerance, setokim_emoji_tiny, expected, processor, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(setokim_emoji_tiny, quantization_config=make_config()).eval()
    quantized = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and type(module.weight) is not nn.Parameter
    ]
    assert len(quantized) == 7 * model.config.text_config.num_hidden_layers
    assert all(name.startswith("model.language_model.") for name in quantized)

    model.save_pretrained(tmp_path)  # now: on some processors bitsandbytes rearranges 4-bit weights when they are used
    captions, paintings, masks = answers(model, processor)
    same = sum(caption == other for caption, other in zip(captions, expected[0], strict=True))
    assert same >= 3
    assert np.abs(paintings - expected[1]).mean() < tolerance
    for mask, other in zip(masks, expected[2], strict=True):
        assert (mask & other).sum() / (mask | other).sum() > 0.9

    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    captions_again, paintings_again, _ = answers(again, processor)
    assert captions_again == captions
    np.testing.assert_allclose(paintings_again, paintings, atol=1)


@pytest.mark.parametrize("model_class", [SetokimModel, SetokimForConditionalGeneration])
def test_all_but_the_language_model_is_named(model_class):
    """A part that comes to the model comes to the list."""
    model = tiny_setokim(tiny_processor())
    model = model.model if model_class is SetokimModel else model
    language_model = next(name for name, module in model.named_modules() if module is model.base_model.language_model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert name.startswith((*model_class.modules_not_quantized, language_model)), name


def test_a_list_of_the_callers_own_stays(monkeypatch):
    given = []
    monkeypatch.setattr(
        "transformers.PreTrainedModel.from_pretrained",
        classmethod(lambda cls, *args, quantization_config, **kwargs: given.append(quantization_config) or cls.made),
    )
    monkeypatch.setattr(SetokimForConditionalGeneration, "made", tiny_setokim(tiny_processor()), raising=False)
    config = BitsAndBytesConfig(load_in_8bit=True)
    for quantization_config in (
        config,
        {"load_in_8bit": True, "quant_method": "bitsandbytes"},
        BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"]),
    ):
        SetokimForConditionalGeneration.from_pretrained("folder", quantization_config=quantization_config)
    default = list(SetokimForConditionalGeneration.modules_not_quantized)
    assert [config.llm_int8_skip_modules for config in given] == [default, default, ["lm_head"]]
    assert config.llm_int8_skip_modules is None  # it may be meant for another model next
