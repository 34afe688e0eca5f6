"""Setokim's model: composition, expansion of images, the three losses, gradients, saving, precision, refusals."""

import copy
import random
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
)
from transformers.utils import is_flash_attn_2_available

from modeling_setok import SetokimForConditionalGeneration, SetokimModel, visual_tokens
from modeling_setok.mask_decoder import mask_losses
from modeling_setok.placeholders import expand_placeholders
from tests.setokim_testing import (
    LANGUAGE_MODELS,
    TINY_HEADS,
    inputs_of,
    pictures,
    tiny_language_model,
    tiny_setok,
)

IMAGE, MASK = "[Img]<image>[/Img]", "[Img]<mask>[/Img]"
TEXTS = ["no picture", f"one {IMAGE} here", f"{IMAGE} a {IMAGE}", f"{IMAGE}{IMAGE} and {IMAGE} three"]


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


# composition


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_text_only_logits_are_the_language_models(processor, kind):
    language_model = tiny_language_model(kind, vocab_size=len(processor.tokenizer))
    inputs = inputs_of(processor, ["Describe the picture.", "It"], side="left")
    with torch.no_grad():
        expected = language_model(**inputs).logits, language_model(**inputs, logits_to_keep=2).logits
        model = SetokimForConditionalGeneration.from_parts(tiny_setok(), language_model, processor, **TINY_HEADS)
        assert torch.equal(model(**inputs).logits, expected[0])
        assert torch.equal(model(**inputs, logits_to_keep=2).logits, expected[1])


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_new_tokens_get_embeddings(processor, kind):
    language_model = tiny_language_model(kind, vocab_size=200)
    old = language_model.get_input_embeddings().weight.detach().clone()
    model = SetokimForConditionalGeneration.from_parts(tiny_setok(), language_model, processor, **TINY_HEADS)
    embedding, size = model.get_input_embeddings(), len(processor.tokenizer)
    assert embedding.num_embeddings == model.config.text_config.vocab_size == size == model.lm_head.out_features
    assert torch.equal(embedding.weight[:200], old)
    tied = kind in ("llama-tied", "gpt2")
    assert model.config.tie_word_embeddings is tied
    assert (model.lm_head.weight is embedding.weight) is tied
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id


def test_larger_vocabulary_is_left_alone(processor):
    language_model = tiny_language_model("llama", vocab_size=512)
    model = SetokimForConditionalGeneration.from_parts(tiny_setok(), language_model, processor, **TINY_HEADS)
    assert model.config.text_config.vocab_size == model.lm_head.out_features == 512


def test_parts_are_taken_over_and_the_rest_is_fresh(processor):
    setok, language_model = tiny_setok(), tiny_language_model("llama", vocab_size=len(processor.tokenizer))
    parts = {
        f"model.setok.{name}": value for name, value in setok.setok.state_dict().items()
    } | {f"detokenizer.{name}": value for name, value in setok.detokenizer.state_dict().items()}  # fmt: skip
    model = SetokimForConditionalGeneration.from_parts(
        setok, language_model, processor, text_loss_weight=0.25, **TINY_HEADS
    )
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in parts.items())
    assert model.config.text_loss_weight == 0.25
    assert not any(value.is_meta or not value.isfinite().all() for value in state.values())
    assert not model.training
    std = model.config.initializer_range
    for weight in (model.model.multi_modal_projector.linear2.weight, model.diffusion_head.blocks[0].linear1.weight):
        assert 0.8 * std < weight.std() < 1.2 * std
    assert not model.diffusion_head.linear_out.weight.any()
    for name, value in model.mask_decoder.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "norm" in name:
            assert (value == 1).all(), name
        else:
            assert value.std() > 0, name


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_type": "gemma2", "head_dim": 8, "query_pre_attn_scalar": 8}, "changes its logits.*capping"),
        ({"model_type": "phi"}, "linear layer without bias"),
    ],
)
def test_refused_language_models(processor, config, message):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    settings = config | sizes | {"num_key_value_heads": 2 if "gemma" in config["model_type"] else 4}
    language_model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**settings, vocab_size=len(processor.tokenizer), initializer_range=0.3, pad_token_id=0)
    )
    with pytest.raises(ValueError, match=message):
        SetokimForConditionalGeneration.from_parts(tiny_setok(), language_model, processor, **TINY_HEADS)


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2"])
def test_save_and_load(processor, make_model, tmp_path, kind):
    model = make_model(kind)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loading = SetokimForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    tied = kind != "llama"
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) is tied
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    inputs = inputs_of(processor, TEXTS)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_auto_classes(processor, model, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    whole, base = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert type(whole) is SetokimForConditionalGeneration and type(base) is SetokimModel
    inputs = inputs_of(AutoProcessor.from_pretrained(tmp_path), TEXTS)
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        assert torch.equal(whole(**inputs).last_hidden_state, expected)
        assert torch.equal(base(**inputs).last_hidden_state, expected)


def test_calibration_makes_unit_variance(processor, model):
    pixels = processor.image_processor(pictures(5))["pixel_values"]
    model.calibrate([pixels[:2], pixels[2:]])
    tokens = torch.cat(model.get_image_features(pixels).visual_tokens)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.std(0), torch.ones(16), rtol=0, atol=1e-4)
    raw = torch.cat(model.model.setok.get_image_features(pixels).pooler_output)
    torch.testing.assert_close(model.model.denormalize_tokens(tokens), raw, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="at least one batch"):
        model.calibrate([])


# expansion


@pytest.mark.parametrize("side", ["left", "right"])
def test_expansion_against_lists(side):
    image_id, mask_id, pad = 90, 91, 3
    config = SimpleNamespace(image_token_id=image_id, mask_token_id=mask_id)
    rng = random.Random(0)
    for _ in range(20):
        rows = [[rng.choice([5, 6, 7, 8, image_id, mask_id]) for _ in range(rng.randint(1, 7))] for _ in range(4)]
        rows[0] = [5, 6]  # without any
        counts = [rng.randint(1, 5) for row in rows for token in row if token >= image_id]
        length = max(map(len, rows))
        padding = [[pad] * (length - len(row)) for row in rows]
        left = side == "left"
        ids = torch.tensor([p + r if left else r + p for p, r in zip(padding, rows, strict=True)])
        mask = torch.tensor(
            [[0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p)
             for p, r in zip(padding, rows, strict=True)]
        )  # fmt: skip
        got = expand_placeholders(config, ids, mask, None, counts)

        left_counts, total = iter(counts), got.input_ids.shape[1]
        for number, row in enumerate(rows):
            repeats = [next(left_counts) if token >= image_id else 1 for token in row]
            wanted = [min(t, image_id) for t, n in zip(row, repeats, strict=True) for _ in range(n)]
            real = got.attention_mask[number].bool()
            assert got.input_ids[number][real].tolist() == wanted
            assert got.position_ids[number][real].tolist() == list(range(len(wanted)))
            assert image_id not in got.input_ids[number][~real].tolist()
            offset = length - len(row) if left else 0
            source = [offset + i for i, n in enumerate(repeats) for _ in range(n)]
            assert got.source_positions[number][real].tolist() == source
            ends = [sum(repeats[: i + 1]) - 1 for i in range(len(row))]
            start = int(real.nonzero()[0])
            compact = got.compact_positions[number, offset : offset + len(row)]
            assert compact.tolist() == [start + end for end in ends]
        assert total == max(
            int(ids.shape[1]) + sum(int(n) - 1 for n in c)
            for c in _counts_by_row(rows, counts, image_id)
        )  # fmt: skip


def _counts_by_row(rows: list[list[int]], counts: list[int], first: int) -> list[list[int]]:
    counts = iter(counts)
    return [[next(counts) for token in row if token >= first] for row in rows]


@pytest.mark.parametrize("side", ["left", "right"])
def test_language_model_reads_the_visual_tokens_in_place_of_the_image(processor, model, side):
    inputs = inputs_of(processor, TEXTS, side)
    with torch.no_grad():
        outputs = model(**inputs)
        visual = iter(model.get_image_features(inputs["pixel_values"]).visual_tokens)
        for row, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)):
            ids = ids[mask].tolist()
            images = [next(visual) for _ in range(TEXTS[row].count("<image>"))]
            embeds, _, ends = embeddings_of(model, ids, images)
            hidden = model.model.language_model(inputs_embeds=embeds[None]).last_hidden_state[0, ends]
            torch.testing.assert_close(outputs.last_hidden_state[row][mask], hidden, rtol=0, atol=1e-4)
            torch.testing.assert_close(outputs.logits[row][mask], model.lm_head(hidden), rtol=0, atol=1e-4)


def test_every_row_alone(processor, model):
    images = iter(pictures(6))
    inputs = inputs_of(processor, TEXTS)
    with torch.no_grad():
        logits = model(**inputs).logits
        for row, text in enumerate(TEXTS):
            own = [next(images) for _ in range(text.count("<image>"))]
            alone = model(**processor(images=own or None, text=[text])).logits[0]
            torch.testing.assert_close(logits[row, : len(alone)], alone, rtol=0, atol=1e-4)


def test_precomputed_features_in_place_of_pixels(processor, model):
    inputs = inputs_of(processor, TEXTS)
    with torch.no_grad():
        expected = model(**inputs).logits
        features = model.get_image_features(inputs.pop("pixel_values"))
        assert torch.equal(model(**inputs, mm_encoder_outputs={"image": features}).logits, expected)


# losses


def by_hand(model, inputs: dict, labels: torch.Tensor, visual: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Text loss, and conditions and tokens of the diffusion loss, row by row over the expanded sequences."""
    config, visual = model.config, iter(visual)
    losses, conditions, tokens = [], [], []
    for ids, mask, row_labels in zip(inputs["input_ids"], inputs["attention_mask"].bool(), labels, strict=True):
        ids, row_labels = ids[mask].tolist(), row_labels[mask].tolist()
        placeholders = (config.image_token_id, config.mask_token_id)
        images = [next(visual) for token in ids if token in placeholders]
        embeds, _, _ = embeddings_of(model, ids, images)
        hidden = model.model.language_model(inputs_embeds=embeds[None]).last_hidden_state[0]
        logits, targets, visual_targets = model.lm_head(hidden), [], []
        own = iter(images)
        for token, label in zip(ids, row_labels, strict=True):
            image = next(own) if token in placeholders else [None]
            targets += [config.image_token_id if label == config.mask_token_id else label] * len(image)
            visual_targets += list(image) if label in placeholders else [None] * len(image)
        for position in range(1, len(targets)):
            if targets[position] != -100:
                losses.append(-logits[position - 1].log_softmax(-1)[targets[position]])
            if visual_targets[position] is not None:
                conditions.append(hidden[position - 1])
                tokens.append(visual_targets[position])
    return {"text_loss": torch.stack(losses).mean(), "conditions": conditions, "tokens": tokens}


@pytest.mark.parametrize("side", ["left", "right"])
def test_losses_by_hand(processor, model, monkeypatch, side):
    """Targets: text, the number of visual tokens and the end of an image; context images are none."""
    seen = {}

    def loss(tokens, conditions):
        seen.update(tokens=tokens, conditions=conditions)
        return conditions.square().mean()

    monkeypatch.setattr(model.diffusion_head, "loss", loss)
    inputs = inputs_of(processor, TEXTS, side)
    labels = targets_of(inputs)
    for row, real in enumerate(inputs["attention_mask"].bool()):
        first, *_, last = real.nonzero()[:, 0].tolist()
        answer = (last if row == 1 else last - 6) if row else first + 1  # row 1 has its image as context
        labels[row, :answer] = -100
    with torch.no_grad():
        outputs = model(**inputs, labels=labels)
        visual = model.get_image_features(inputs["pixel_values"]).visual_tokens
        expected = by_hand(model, inputs, labels, visual)
    torch.testing.assert_close(outputs.text_loss, expected["text_loss"], rtol=0, atol=1e-5)
    assert 0 < len(expected["tokens"]) < sum(map(len, visual))
    torch.testing.assert_close(seen["tokens"], torch.stack(expected["tokens"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen["conditions"], torch.stack(expected["conditions"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs.loss, outputs.text_loss + outputs.diffusion_loss, rtol=0, atol=1e-5)
    assert outputs.mask_loss is None


def test_diffusion_loss_comes_from_the_positions_before_target_tokens(processor, make_model):
    model = make_model(text_loss_weight=0.0)
    inputs = inputs_of(processor, [f"{IMAGE} to {IMAGE}"])
    labels = targets_of(inputs, start=4)
    hidden = []
    model.model.language_model.register_forward_hook(lambda module, args, out: hidden.append(out.last_hidden_state))
    outputs = model(**inputs, labels=labels)
    hidden[0].retain_grad()
    outputs.loss.backward()
    first, second = (len(tokens) for tokens in model.get_image_features(inputs["pixel_values"]).visual_tokens)
    start = 1 + first + 1 + len(processor.tokenizer(" to ")["input_ids"])  # of the second [Img]
    expected = list(range(start, start + second))
    assert hidden[0].grad[0].abs().sum(1).nonzero()[:, 0].tolist() == expected


def test_weights_of_the_losses(processor, make_model):
    weights = {"text_loss_weight": 0.5, "diffusion_loss_weight": 3.0, "mask_bce_weight": 1.5, "mask_dice_weight": 0.25}
    model = make_model(**weights)
    inputs = inputs_of(processor, [f"{IMAGE} dog {MASK}"])
    masks = (torch.rand(1, 24, 24) > 0.5).float()
    with torch.no_grad():
        outputs = model(**inputs, masks=masks, labels=targets_of(inputs, start=4))
    total = 0.5 * outputs.text_loss + 3 * outputs.diffusion_loss + outputs.mask_loss
    torch.testing.assert_close(outputs.loss, total, rtol=0, atol=1e-5)
    cross_entropy, dice = mask_losses(outputs.mask_logits, masks)
    torch.testing.assert_close(outputs.mask_loss, 1.5 * cross_entropy + 0.25 * dice, rtol=0, atol=1e-5)


def test_without_targets_there_is_no_loss(processor, model):
    inputs = inputs_of(processor, TEXTS)
    outputs = model(**inputs)
    assert outputs.loss is outputs.text_loss is outputs.diffusion_loss is outputs.mask_loss is None


# masks


@pytest.fixture
def masked(processor, model):
    """A row of two images, a mask of the second, with the clusters of that one (C, h, w)."""
    inputs = inputs_of(processor, ["text", f"{IMAGE}{IMAGE} dog {MASK}"])
    with torch.no_grad():
        outputs = model.model.setok(inputs["pixel_values"])
    clusters = model.model.setok.concept_masks(outputs, size=(24, 24))[1, : outputs.num_tokens[1]]
    tokens = model.model.normalize_tokens(outputs.last_hidden_state[1])
    return inputs, clusters, tokens


def prompts_of(model, inputs, mask: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        features = model.model.get_placeholder_features(inputs["input_ids"], inputs["pixel_values"], mask[None])
    assert features.mask_images.tolist() == [1] and len(features.visual_tokens) == 3
    prompts = features.mask_prompts[features.mask_prompt_mask]
    assert torch.equal(prompts, features.visual_tokens[2])
    return prompts


def test_mask_stands_for_the_tokens_it_covers(model, masked):
    inputs, clusters, tokens = masked
    assert len(clusters) > 2
    for number in range(len(clusters)):
        torch.testing.assert_close(prompts_of(model, inputs, clusters[number]), tokens[[number]], rtol=0, atol=1e-5)
    both = clusters[0] + clusters[2]
    torch.testing.assert_close(prompts_of(model, inputs, both), tokens[[0, 2]], rtol=0, atol=1e-5)
    everything = torch.ones(24, 24)
    torch.testing.assert_close(prompts_of(model, inputs, everything), tokens[: len(clusters)], rtol=0, atol=1e-5)


def test_a_mask_of_little_stands_for_the_token_it_covers_most(model, masked):
    inputs, clusters, tokens = masked
    number = int(clusters.sum((1, 2)).argmax())
    row, column = clusters[number].nonzero()[-1].tolist()
    speck = torch.zeros(24, 24)
    speck[row, column] = 1
    torch.testing.assert_close(prompts_of(model, inputs, speck), tokens[[number]], rtol=0, atol=1e-5)
    assert len(prompts_of(model, inputs, torch.zeros(24, 24))) == 1  # of nothing, some token


def test_masks_of_several_rows(processor, model):
    inputs = inputs_of(processor, [f"{IMAGE} a {MASK}", f"{IMAGE} b {MASK} c {MASK}", f"{IMAGE} d"])
    masks = torch.rand(3, 24, 24).round()
    with torch.no_grad():
        outputs = model(**inputs, masks=masks, labels=targets_of(inputs, start=4))
        alone = [
            model(
                **processor(images=[pictures(3)[row]], text=[f"{IMAGE} a {MASK}"]), masks=masks[[number]],
                labels=torch.full((1, 1), -100).expand(1, len(processor.tokenizer(f"{IMAGE} a {MASK}").input_ids)),
            ).mask_logits
            for number, row in enumerate([0, 1, 1])
        ]  # fmt: skip
    torch.testing.assert_close(outputs.mask_logits, torch.cat(alone), rtol=0, atol=1e-5)
    assert outputs.mask_logits.shape == (3, 24, 24)


# training

STAGE = ["model.multi_modal_projector", "model.language_model", "lm_head", "diffusion_head", "mask_decoder"]
BATCHES = {
    "text": ["only text", "and more text here"],
    "context image": [f"{IMAGE} a dog", "text"],
    "target image": [f"paint: {IMAGE}", "text"],
    "mask": [f"{IMAGE} dog: {MASK}", "text"],
}


def training_step(processor, model, texts: list[str], start: int = 4):
    inputs = inputs_of(processor, texts)
    masks = (torch.rand(sum(text.count("<mask>") for text in texts), 24, 24) > 0.5).float()
    model.zero_grad()
    outputs = model(**inputs, masks=masks if len(masks) else None, labels=targets_of(inputs, start), use_cache=False)
    outputs.loss.backward()
    return outputs


@pytest.mark.parametrize("texts", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("kind", ["llama", "llama-tied"])
def test_every_trainable_parameter_takes_part_in_every_batch(processor, make_model, texts, kind):
    """As DistributedDataParallel demands without find_unused_parameters."""
    from training.freezing import train_only

    model = make_model(kind).train()
    train_only(model, STAGE)
    training_step(processor, model, texts)
    missing = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not missing
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None}
    assert not frozen


def test_idle_parts_do_not_change_the_gradients(processor, model):
    """In training mode, zero is added for the parts that a batch does not need."""
    gradients = []
    for training in (False, True):
        model.train(training)
        outputs = training_step(processor, model, BATCHES["text"])
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.any()})
        assert outputs.diffusion_loss is None and outputs.mask_loss is None
        torch.testing.assert_close(outputs.loss, outputs.text_loss, rtol=0, atol=0)
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_parts_run_in_one_order_whatever_a_batch_holds(processor, model, monkeypatch):
    """Else processes with other batches add up gradients of other parts (ZeRO-2), or wait for each other (ZeRO-3)."""
    from training.freezing import train_only

    monkeypatch.setattr(visual_tokens, "is_deepspeed_zero3_enabled", lambda: True)
    train_only(model.train(), STAGE)
    events = []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: events.append(("runs", name)))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: events.append(("gradient", name)))

    def watch(module, arguments, outputs):
        hidden = [outputs.last_hidden_state] + ([outputs.expanded.hidden_states] if outputs.expanded else [])
        for tensor in hidden:
            tensor.register_hook(lambda _: events.append(("gradient", "the base model's output")))

    model.model.register_forward_hook(watch)
    sequences = []
    for texts in BATCHES.values():
        events.clear()
        training_step(processor, model, texts)
        sequences.append(list(events))
    assert len(sequences[0]) > 100
    assert all(sequence == sequences[0] for sequence in sequences)


def test_frozen_parts_stay_in_eval_mode(model):
    for part in (model.model.setok, model.detokenizer, model.mask_decoder):
        part.requires_grad_(True)
        model.train()
        assert part.training
        part.requires_grad_(False)
        model.train()
        assert not any(module.training for module in part.modules())
        assert model.model.language_model.training and model.diffusion_head.training
    model.model.train()
    assert not model.model.setok.training


def test_gradient_checkpointing(processor, model):
    gradients = []
    model.model.setok.requires_grad_(True)
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        torch.manual_seed(1)
        training_step(processor, model, [f"{IMAGE} to {IMAGE}", "text"])
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_attention_implementations_agree(processor, model):
    inputs = inputs_of(processor, [f"{IMAGE} dog: {MASK}", f"{IMAGE}{IMAGE}"])
    masks = torch.ones(1, 24, 24)
    outputs = {}
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert model.mask_decoder.layers[0].self_attn.config._attn_implementation == name
        with torch.no_grad():
            outputs[name] = model(**inputs, masks=masks, labels=targets_of(inputs, start=4))
    for name in ("logits", "text_loss", "mask_logits"):
        torch.testing.assert_close(outputs["eager"][name], outputs["sdpa"][name], rtol=0, atol=1e-4)


def test_bfloat16(processor, model):
    half = copy.deepcopy(model).to(torch.bfloat16)
    inputs = inputs_of(processor, [f"{IMAGE} dog: {MASK}", f"{IMAGE} to {IMAGE}"])
    masks, labels = torch.ones(1, 24, 24), targets_of(inputs, start=4)
    with torch.no_grad():
        # One set of visual tokens: rounding changes which patches belong together
        features = model.model.get_placeholder_features(inputs["input_ids"], inputs["pixel_values"], masks)
        full = model(inputs["input_ids"], inputs["attention_mask"], mm_encoder_outputs={"image": features})
        rounded = half(inputs["input_ids"], inputs["attention_mask"], mm_encoder_outputs={"image": features})
    assert rounded.logits.dtype == torch.bfloat16
    difference = (rounded.logits.float() - full.logits)[inputs["attention_mask"].bool()]
    assert difference.abs().mean() < 0.05 * full.logits.std()
    outputs = half(**inputs, masks=masks, labels=labels)
    assert all(outputs[name].isfinite() for name in ("loss", "text_loss", "diffusion_loss", "mask_loss"))
    outputs.loss.backward()


# refusals


@pytest.mark.parametrize(
    "text, images, message",
    [
        (f"{IMAGE} and {IMAGE}", 1, "do not match"),
        ("none", 1, "do not match"),
        (IMAGE, 0, "there are no pixel_values"),
        (f"{MASK} {IMAGE}", 1, "needs an image before it"),
        (f"{IMAGE} {MASK}", 1, "has 1 <mask> but 0 masks"),
    ],
)
def test_refused_prompts(processor, model, text, images, message):
    inputs = dict(processor(text=[text.replace("<image>", "<|pad|>")], return_tensors="pt"))
    pad, image = processor.tokenizer.convert_tokens_to_ids(["<|pad|>", "<image>"])
    inputs["input_ids"][inputs["input_ids"] == pad] = image
    if images:
        inputs["pixel_values"] = processor.image_processor(pictures(images))["pixel_values"]
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_a_wrong_number_of_images_is_never_taken_for_an_expanded_prompt(processor, model):
    """Three `<image>` and one image of three visual tokens are no match."""
    pixels = processor.image_processor(pictures(1))["pixel_values"]
    count = len(model.get_image_features(pixels).pooler_output[0])
    assert count > 1
    ids = processor.tokenizer("a" + IMAGE * count, return_tensors="pt")["input_ids"]
    with pytest.raises(ValueError, match="do not match"):
        model(ids, pixel_values=pixels)
    with pytest.raises(ValueError, match="do not match"):
        model.generate(ids, pixel_values=pixels, max_new_tokens=1)


def test_masks_need_places(processor, model):
    inputs = inputs_of(processor, [f"{IMAGE} dog"])
    with pytest.raises(ValueError, match="0 <mask> but 1 masks"):
        model(**inputs, masks=torch.ones(1, 24, 24))
    del inputs["pixel_values"]
    with pytest.raises(ValueError, match="without pixel_values"):
        model(**inputs, masks=torch.ones(1, 24, 24))


def test_refused_arguments(processor, model):
    inputs = inputs_of(processor, [f"a {IMAGE}"])
    features = model.get_image_features(inputs["pixel_values"])
    with pytest.raises(ValueError, match="not both"):
        model(**inputs, mm_encoder_outputs={"image": features})
    with pytest.raises(ValueError, match="position_ids must be those of the text before"):
        model(**inputs, position_ids=torch.arange(inputs["input_ids"].shape[1] + 1)[None])
    with pytest.raises(ValueError, match=r"\(batch, length\)"):
        model(inputs["input_ids"], attention_mask=torch.ones(1, 1, 9, 9), pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


def test_an_image_to_learn_cannot_come_first(processor, model):
    ids = torch.tensor([[processor.image_token_id, 5, 6, 7], [5, 6, 7, 8]])
    pixels = processor.image_processor(pictures(1))["pixel_values"]
    with pytest.raises(ValueError, match="cannot come first"):
        model(ids, pixel_values=pixels, labels=ids)


def test_language_model_base_is_a_pretrained_model(model):
    assert isinstance(model.model, PreTrainedModel) and isinstance(model.model.language_model, PreTrainedModel)
    assert model.base_model is model.model and isinstance(model.get_output_embeddings(), nn.Linear)


def test_loaded_in_bfloat16(processor, model, tmp_path):
    """Loaded in bfloat16, every part is, and it learns and answers nearly as in float32."""
    model.config.vision_config.vision_config.dtype = "float32"  # as in a SeTok that was trained in float32
    model.save_pretrained(tmp_path)
    low = SetokimForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in low.parameters()} == {torch.bfloat16}
    for texts in BATCHES.values():
        outputs = training_step(processor, low.train(), texts)
        assert outputs.loss.isfinite()
        expected = training_step(processor, model.train(), texts)
        assert outputs.text_loss.item() == pytest.approx(expected.text_loss.item(), rel=0.1)
    assert isinstance(low.eval().caption(processor, pictures(1)[0], max_new_tokens=3), str)


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
def test_says_what_flash_attention_needs(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ImportError, match="FlashAttention2 .* doesn't seem to be installed"):
        SetokimForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="flash_attention_2")
    SetokimForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
