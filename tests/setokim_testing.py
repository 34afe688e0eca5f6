"""A Setokim of some thousand random weights, its processor, inputs for it, and a step of its training."""

from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, Qwen2Config

from modeling_setok import SetokConfig, SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokImageProcessor, SetokimProcessor
from training.data.bpe_tokenizer import train_tokenizer

EMOJI = Path(__file__).parents[1] / "model_cards" / "setok-emoji-tiny"
LANGUAGE_MODELS = {
    "llama": (LlamaConfig, {"tie_word_embeddings": False}),
    "llama-tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": False}),
    "gpt2": (GPT2Config, {"eos_token_id": None}),
}
TINY_HEADS = {
    "diffusion_config": {"hidden_size": 32, "num_residual_blocks": 1, "num_inference_steps": 4, "copy_dim": 8},
    "mask_decoder_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2},
}
IMAGE, MASK = "[Img]<image>[/Img]", "[Img]<mask>[/Img]"
TEXTS = ["no picture", f"one {IMAGE} here", f"{IMAGE} a {IMAGE}", f"{IMAGE}{IMAGE} and {IMAGE} three"]
STAGE = ["model.multi_modal_projector", "model.language_model", "lm_head", "diffusion_head", "mask_decoder"]
BATCHES = {
    "text": ["only text", "and more text here"],
    "context image": [f"{IMAGE} a dog", "text"],
    "target image": [f"paint: {IMAGE}", "text"],
    "mask": [f"{IMAGE} dog: {MASK}", "text"],
}


def tiny_setok() -> SetokForPreTraining:
    """Weights and threshold such that random pictures have several tokens each, and different numbers of them."""
    encoder = {
        "model_type": "siglip_vision_model", "image_size": 24, "patch_size": 4, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vision_use_head": False,
        "initializer_range": 0.2,
    }  # fmt: skip
    detokenizer = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "grid_size": 3,
        "decoder_channels": [8, 4], "decoder_blocks": 1, "initializer_range": 0.2,
    }  # fmt: skip
    config = SetokConfig(
        vision_config=encoder, detokenizer_config=detokenizer, hidden_size=16, intermediate_size=24,
        num_attention_heads=2, num_inner_layers=1, num_inter_layers=1, num_neighbors=4, threshold=0.85, max_tokens=12,
        projection_dim=8, text_feature_dim=6, initializer_range=0.2,
    )  # fmt: skip
    return SetokForPreTraining(config).eval()


def tiny_language_model(kind: str, vocab_size: int, **settings) -> PreTrainedModel:
    """Two layers with weights so large that every token of the past changes what comes next."""
    config_class, extra = LANGUAGE_MODELS[kind]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
    if kind != "gpt2":
        sizes |= {"intermediate_size": 64, "num_key_value_heads": 2}
    config = config_class(**sizes, vocab_size=vocab_size, initializer_range=0.3, bos_token_id=None, **extra, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


def tiny_processor() -> SetokimProcessor:
    tokenizer = train_tokenizer(["Describe the picture.", "It shows a dog."], vocab_size=270)
    return SetokimProcessor.from_parts(SetokImageProcessor(size={"height": 24, "width": 24}), tokenizer)


def tiny_setokim(
    processor: SetokimProcessor, kind: str = "llama", setok: SetokForPreTraining | None = None, **settings
) -> SetokimForConditionalGeneration:
    """In eval mode, by default around `tiny_setok`; keywords are values of its configuration."""
    language_model = tiny_language_model(kind, vocab_size=len(processor.tokenizer))
    settings = TINY_HEADS | settings
    model = SetokimForConditionalGeneration.from_parts(setok or tiny_setok(), language_model, processor, **settings)
    for parameter in model.diffusion_head.parameters():  # which starts as zero, whatever the condition
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    model.calibrate(processor.image_processor(pictures(4))["pixel_values"])
    return model


def save_emoji_setokim(folder: Path) -> SetokimProcessor:
    """Around the shipped `setok-emoji-tiny`, whose encoder is a CNN with batch norms; without its code beside it, as
    the models of `model_cards/` are. Everything else is as tiny and random as above."""
    processor = SetokimProcessor.from_parts(SetokImageProcessor.from_pretrained(EMOJI), tiny_processor().tokenizer)
    tiny_setokim(processor, "llama-tied", SetokForPreTraining.from_pretrained(EMOJI)).save_pretrained(folder)
    processor.save_pretrained(folder)
    for code in folder.glob("*.py"):
        code.unlink()
    return processor


def pictures(count: int, size: tuple[int, int] = (24, 24)) -> list[Image.Image]:
    """Random pictures of (width, height), always the same, from busy to blank."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for number in range(count):
        coarse = torch.rand(6, 6, 3, generator=generator)
        coarse[: 2 * number] = coarse[0, 0].clone()
        array = coarse.mul(255).byte().numpy()
        found.append(Image.fromarray(array).resize(size, Image.Resampling.NEAREST))
    return found


def inputs_of(processor: SetokimProcessor, texts: list[str], side: str = "right") -> dict[str, torch.Tensor]:
    """Of texts with `[Img]<image>[/Img]`, the pictures being the first of `pictures`."""
    count = sum(text.count("<image>") for text in texts)
    return dict(processor(images=pictures(count) or None, text=texts, padding_side=side))


def targets_of(inputs: dict, start: int = 0) -> torch.Tensor:
    """Labels of everything but padding from compact position `start` on."""
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, :start] = -100
    return labels


def embeddings_of(model, ids: list[int], visual: list[torch.Tensor]) -> tuple[torch.Tensor, list[int], list[int]]:
    """What the language model reads for one row, the ids there, and where each compact position ends up."""
    embed, visual = model.get_input_embeddings(), iter(visual)
    rows, expanded, ends = [], [], []
    for token in ids:
        if token in (model.config.image_token_id, model.config.mask_token_id):
            tokens = next(visual)
            rows.append(model.model.multi_modal_projector(tokens))
            expanded += [token] * len(tokens)
        else:
            rows.append(embed(torch.tensor([token])))
            expanded.append(token)
        ends.append(len(expanded) - 1)
    return torch.cat(rows), expanded, ends


def training_step(processor, model, texts: list[str], start: int = 4):
    inputs = inputs_of(processor, texts)
    masks = (torch.rand(sum(text.count("<mask>") for text in texts), 24, 24) > 0.5).float()
    model.zero_grad()
    outputs = model(**inputs, masks=masks if len(masks) else None, labels=targets_of(inputs, start), use_cache=False)
    outputs.loss.backward()
    return outputs
