"""Setokim behind the doors of transformers that LLaVA has: each opens, or says what to do instead."""

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

from modeling_setok import SetokimForConditionalGeneration, SetokimModel
from tests.setokim_testing import IMAGE, MASK, inputs_of, pictures, tiny_language_model

TEXTS = [f"{IMAGE} and {IMAGE} differ", f"one {IMAGE}", "no picture here"]


def greedy(model, inputs: dict, **options) -> torch.Tensor:
    return model.generate(**inputs, **({"max_new_tokens": 8, "do_sample": False} | options))


def embedded(model, inputs: dict) -> dict:
    """The same inputs by embeddings in place of ids."""
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    return others | {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]).detach()}


# positions and embeddings


def test_position_ids_are_those_of_the_compact_text(processor, model):
    inputs = inputs_of(processor, TEXTS, "left")
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    expected = model(**inputs)
    got = model(**inputs, position_ids=positions)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(got.logits[real], expected.logits[real])
    moved = model(**inputs, position_ids=positions * 3)
    assert (moved.logits[real] - expected.logits[real]).abs().max() > 1e-3, "position_ids are not looked at"
    assert greedy(model, inputs, position_ids=positions).equal(greedy(model, inputs))


def test_position_ids_of_another_length_are_refused(processor, model):
    inputs = inputs_of(processor, [f"a {IMAGE}"])
    positions = torch.arange(inputs["input_ids"].shape[1] + 2)[None]
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="position_ids must be those of the text before its images are expanded"):
            call(**inputs, position_ids=positions)


def test_embeddings_in_place_of_ids(processor, model):
    inputs = inputs_of(processor, [*TEXTS, f"{IMAGE} dog: {MASK}"], "left")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, :3] = -100
    labels[labels == model.config.image_token_id] = -100
    arguments = {"labels": labels, "masks": torch.ones(1, 24, 24)}
    torch.manual_seed(0)
    expected = model(**inputs, **arguments)
    torch.manual_seed(0)
    got = model(**embedded(model, inputs), **arguments)
    for name in ("logits", "text_loss", "diffusion_loss", "mask_loss"):
        torch.testing.assert_close(got[name], expected[name])
    without = {name: value for name, value in embedded(model, inputs_of(processor, TEXTS)).items() if name[0] != "p"}
    with pytest.raises(ValueError, match="the text has <image> but there are no pixel_values"):
        model(**without)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}])
def test_generation_from_embeddings(processor, model, options):
    inputs = inputs_of(processor, TEXTS, "left")
    torch.manual_seed(0)
    expected = greedy(model, inputs, **options)[:, inputs["input_ids"].shape[1] :]
    torch.manual_seed(0)
    got = greedy(model, embedded(model, inputs), **options)
    assert got.equal(expected)


def test_painting_from_embeddings(processor, model):
    inputs = inputs_of(processor, [f"{IMAGE} again: [Img]"], "left")
    options = {"return_dict_in_generate": True, "max_visual_tokens": 3}
    expected, got = greedy(model, inputs, **options), greedy(model, embedded(model, inputs), **options)
    assert got.sequences.equal(expected.sequences[:, inputs["input_ids"].shape[1] :])
    for image, other in zip(got.visual_tokens[0], expected.visual_tokens[0], strict=True):
        torch.testing.assert_close(image, other)


# a returned cache


def next_turn(processor, output, text: str) -> dict:
    """The whole conversation so far, with one more turn."""
    new = processor.tokenizer([text] * len(output.sequences), return_tensors="pt")["input_ids"]
    return {"input_ids": torch.cat([output.sequences, new], dim=1)}


def test_a_conversation_goes_on_from_a_returned_cache(processor, model):
    inputs = inputs_of(processor, [f"{IMAGE} and {IMAGE} differ"])
    first = greedy(model, inputs, return_dict_in_generate=True)
    turn = next_turn(processor, first, "why so?") | {"pixel_values": inputs["pixel_values"]}
    expected = greedy(model, turn)
    assert greedy(model, turn, past_key_values=first.past_key_values).equal(expected)


def test_a_new_image_after_a_returned_cache(processor, model):
    inputs = inputs_of(processor, [f"{IMAGE} first"])
    first = greedy(model, inputs, return_dict_in_generate=True)
    pixel_values = processor.image_processor(pictures(2))["pixel_values"]
    turn = next_turn(processor, first, f"and {IMAGE} too") | {"pixel_values": pixel_values}
    expected = greedy(model, turn)
    assert greedy(model, turn, past_key_values=first.past_key_values).equal(expected)


def test_rows_that_move_apart_do_not_go_on_from_a_cache(processor, model):
    inputs = inputs_of(processor, [f"{IMAGE} first", f"{IMAGE} other"], "left")
    first = greedy(model, inputs, return_dict_in_generate=True, max_new_tokens=4, min_new_tokens=4)
    shown = processor.image_processor(pictures(2))["pixel_values"]
    blank = torch.zeros_like(shown[:1])
    pixel_values = torch.cat([shown[:1], shown[1:], shown[1:], blank])
    counts = [len(tokens) for tokens in model.get_image_features(pixel_values).pooler_output]
    assert counts[1] != counts[3]
    turn = next_turn(processor, first, f"and {IMAGE}") | {"pixel_values": pixel_values}
    with pytest.raises(ValueError, match="one row at a time, or without a cache"):
        greedy(model, turn, past_key_values=first.past_key_values)


def test_a_cache_and_a_text_that_do_not_fit_are_refused(processor, model):
    inputs = inputs_of(processor, [f"{IMAGE} and {IMAGE} differ"])
    first = greedy(model, inputs, return_dict_in_generate=True)
    turn = next_turn(processor, first, "why so?")
    with pytest.raises(ValueError, match="pass all pixel_values of the conversation again"):
        greedy(model, turn, past_key_values=first.past_key_values)
    cache = model(**inputs, past_key_values=DynamicCache(config=model.config.text_config)).past_key_values
    step = {"input_ids": inputs["input_ids"][:, -1:], "past_key_values": cache}
    mask = torch.ones(1, inputs["input_ids"].shape[1] + 1, dtype=torch.long)
    with pytest.raises(ValueError, match="A cache counts an image's visual tokens, not its one <image>"):
        model(**step, attention_mask=mask)
    with pytest.raises(ValueError, match="attention_mask must be .* of the .* positions in the cache and the text"):
        model(**inputs, past_key_values=cache)


def test_a_manual_loop_over_the_cache(processor, model):
    """Step by step from a compact prompt, as greedy search does."""
    inputs = inputs_of(processor, [f"{IMAGE} and {IMAGE} differ"])
    expected = greedy(model, inputs, max_new_tokens=5, suppress_tokens=[model.config.image_start_token_id])
    outputs, ids = model(**inputs, use_cache=True), []
    for _ in range(5):
        logits = outputs.logits[:, -1].detach().clone()
        for name in ("image_start_token_id", "image_token_id", "image_end_token_id", "mask_token_id"):
            logits[:, getattr(model.config, name)] = -torch.inf
        ids.append(logits.argmax(-1, keepdim=True))
        if int(ids[-1]) == model.generation_config.eos_token_id:
            break
        outputs = model(ids[-1], past_key_values=outputs.past_key_values, use_cache=True)
    assert torch.cat(ids, dim=1).equal(expected[:, inputs["input_ids"].shape[1] :])


def test_a_forward_with_images_after_a_cache(processor, model):
    """Piece by piece, rows of different length apart, as in one piece."""
    whole = inputs_of(processor, [f"{IMAGE} one {IMAGE} two"] * 2, "left")
    cut = 1 + whole["input_ids"].tolist()[0].index(processor.image_end_token_id)
    assert whole["attention_mask"].all() and (whole["input_ids"][:, cut - 2] == processor.image_token_id).all()
    expected = model(**whole).logits
    pixel_values = whole["pixel_values"]
    first = model(whole["input_ids"][:, :cut], pixel_values=pixel_values[[0, 2]], use_cache=True)
    past = first.past_key_values.get_seq_length()
    counts = [len(tokens) for tokens in model.get_image_features(pixel_values).pooler_output]
    past_mask = torch.ones(2, past, dtype=torch.long)
    for row, count in enumerate((counts[0], counts[2])):  # on the left, where the shorter image is padded
        past_mask[row, : max(counts[0], counts[2]) - count] = 0
    second = model(
        whole["input_ids"][:, cut:],
        attention_mask=torch.cat([past_mask, torch.ones_like(whole["input_ids"][:, cut:])], dim=1),
        pixel_values=pixel_values[[1, 3]],
        past_key_values=first.past_key_values,
    )
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), expected, rtol=1e-4, atol=1e-4)


# modes of generation that give text alone


@pytest.mark.parametrize("assistant", ["itself", "another", "a language model"])
def test_assisted_decoding(processor, model, make_model, assistant):
    vocabulary = len(processor.tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        assistants = {"itself": model, "another": make_model("qwen2")}
        assistants["a language model"] = tiny_language_model("llama", vocabulary)
    for text in ("no picture", f"{IMAGE} and {IMAGE} differ"):
        inputs = inputs_of(processor, [text])
        expected = greedy(model, inputs, suppress_tokens=[model.config.image_start_token_id])
        assert greedy(model, inputs, assistant_model=assistants[assistant]).equal(expected)


def test_an_assistant_sees_the_images(processor, model):
    """Itself as assistant is right about every token, which it would not be without the images."""
    inputs, calls = inputs_of(processor, [f"{IMAGE} and {IMAGE} differ"]), []
    handle = model.register_forward_pre_hook(lambda module, args, kwargs: calls.append(1), with_kwargs=True)
    output = greedy(model, inputs, assistant_model=model, max_new_tokens=10, min_new_tokens=10)
    handle.remove()
    assert output.shape[1] - inputs["input_ids"].shape[1] == 10
    assert len(calls) < 10 + 5, "the assistant's candidates were refused"


@pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": 3}, {"num_beams": 2}])
def test_text_alone_where_images_are_out_of_reach(processor, make_model, options):
    model = make_model()
    model.generation_config.sequence_bias = {(model.config.image_start_token_id,): 50.0}  # it would paint if it could
    inputs = inputs_of(processor, [f"{IMAGE} {IMAGE} {IMAGE} {IMAGE}"])
    output = greedy(model, inputs, max_new_tokens=12, **options)
    answer = output[:, inputs["input_ids"].shape[1] :]
    assert not (answer == model.config.image_start_token_id).any() and not (answer == model.config.image_token_id).any()
    if "num_beams" not in options:
        assert output.equal(greedy(model, inputs, max_new_tokens=12, suppress_tokens=[model.config.image_token_id]))


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"prompt_lookup_num_tokens": 3}, "assisted decoding gives text only"),
        ({"num_beams": 2}, "beam search gives text only"),
        ({"suppress_tokens": ["image_token_id"]}, "suppress_tokens gives text only"),
        ({"assistant_early_exit": 1}, "give an assistant_model instead"),
        ({"guidance_scale": 1.5}, "visual_guidance_scale guides the images"),
    ],
)
def test_refused_for_images(processor, model, options, reason):
    if "suppress_tokens" in options:
        options = {"suppress_tokens": [getattr(model.config, name) for name in options["suppress_tokens"]]}
    with pytest.raises(ValueError, match=reason):
        greedy(model, inputs_of(processor, ["paint: [Img]"]), **options)
    with pytest.raises(ValueError, match=reason):
        greedy(model, inputs_of(processor, ["paint: [Img]"]), generation_config=GenerationConfig(**options))


@pytest.mark.parametrize("name", ["image_start_token_id", "image_token_id", "image_end_token_id"])
def test_suppressed_tokens_of_images(processor, make_model, name):
    """As TRL's GRPO and RLOO set them by themselves: the model writes, and no probability is NaN."""
    model = make_model()
    model.generation_config.sequence_bias = {(model.config.image_start_token_id,): 50.0}
    inputs = inputs_of(processor, ["Draw: a dog.", f"{IMAGE} again"], "left")
    token_id = getattr(model.config, name)
    torch.manual_seed(0)
    output = greedy(
        model, inputs, do_sample=True, suppress_tokens=[token_id], output_scores=True, return_dict_in_generate=True
    )
    answer = output.sequences[:, inputs["input_ids"].shape[1] :]
    assert not any((answer == getattr(model.config, mark)).any() for mark in ("image_start_token_id", "image_token_id"))
    assert not any(scores.isnan().any() or (scores == -torch.inf).all(1).any() for scores in output.scores)


def test_suppressing_masks_changes_nothing(processor, make_model):
    """They are never generated: an answer may have images as before."""
    model = make_model()
    model.generation_config.sequence_bias = {(model.config.image_start_token_id,): 50.0}
    inputs = inputs_of(processor, ["Draw: a dog."])
    expected = greedy(model, inputs)
    assert (expected == model.config.image_token_id).any()
    assert greedy(model, inputs, suppress_tokens=[model.config.mask_token_id]).equal(expected)


def test_strings_that_stop(processor, model):
    """The tokenizer that they need is no argument of the model."""
    inputs = inputs_of(processor, [f"{IMAGE} and {IMAGE} differ"])
    answer = greedy(model, inputs, tokenizer=processor.tokenizer)[0, inputs["input_ids"].shape[1] :]
    stop = processor.tokenizer.decode(answer[2])
    stopped = greedy(model, inputs, tokenizer=processor.tokenizer, stop_strings=[stop])
    assert stopped[0, inputs["input_ids"].shape[1] :].equal(answer[:3])


def test_contradicting_options_are_refused(processor, model):
    inputs = inputs_of(processor, ["paint: [Img]"])
    with pytest.raises(ValueError, match="contradicts the image that is under way"):
        greedy(model, inputs, bad_words_ids=[[model.config.image_token_id]])


def test_gradient_checkpointing_in_training_is_no_time_to_generate(processor, model):
    model.gradient_checkpointing_enable()
    inputs = inputs_of(processor, ["a text"])
    expected = greedy(model.eval(), inputs)
    model.train()
    with pytest.raises(ValueError, match=r"call model.eval\(\) or model.gradient_checkpointing_disable\(\) first"):
        greedy(model, inputs)
    model.gradient_checkpointing_disable()
    assert greedy(model, inputs).equal(expected)


def test_a_number_is_no_generator(processor, model):
    with pytest.raises(TypeError, match="must be a torch.Generator or a list of them, got 3"):
        greedy(model, inputs_of(processor, ["paint: [Img]"]), generator=3)


@pytest.mark.parametrize("name", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_soft_prompts_of_peft(processor, model, name):
    """Which go in as embeddings, or as a cache: every row sees its images, in training and in generation."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, getattr(peft, name)(task_type="CAUSAL_LM", num_virtual_tokens=3))
    inputs = inputs_of(processor, TEXTS, "left")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[(labels == model.config.image_token_id) | (labels == model.config.image_start_token_id)] = -100
    losses = []
    for pixel_values in (inputs["pixel_values"], inputs["pixel_values"].flip(0)):
        losses.append(adapted(**inputs | {"pixel_values": pixel_values}, labels=labels).loss)
    assert (losses[0] - losses[1]).abs() > 1e-4
    losses[0].backward()
    assert all(p.grad.abs().max() > 0 for p in adapted.parameters() if p.requires_grad)
    answers = adapted.eval().generate(**inputs, max_new_tokens=5, do_sample=False)[:, -5:]
    alone = inputs_of(processor, TEXTS[:1])
    assert adapted.generate(**alone, max_new_tokens=5, do_sample=False)[0, -5:].equal(answers[0])


# labels


def test_shifted_labels(processor, model):
    inputs = inputs_of(processor, TEXTS)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, :3] = -100
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    for arguments in ({"shift_labels": shifted}, {"shift_labels": shifted, "labels": torch.zeros_like(labels)}):
        torch.manual_seed(0)
        expected = model(**inputs, labels=labels)
        torch.manual_seed(0)
        got = model(**inputs, **arguments)
        for name in ("loss", "text_loss", "diffusion_loss"):
            torch.testing.assert_close(got[name], expected[name])


def test_shifted_labels_of_pieces(processor, model):
    """The last position of a piece predicts what the next one begins with."""
    inputs = inputs_of(processor, ["no picture here"])
    labels = torch.nn.functional.pad(inputs["input_ids"][:, 1:], (0, 1), value=5)
    logits = model(**inputs).logits
    expected = torch.nn.functional.cross_entropy(logits[0], labels[0])
    torch.testing.assert_close(model(**inputs, shift_labels=labels).loss, expected)
    inputs = inputs_of(processor, [f"a {IMAGE} b"])
    shifted = torch.full_like(inputs["input_ids"], -100)
    shifted[:, -1] = model.config.image_token_id
    with pytest.raises(ValueError, match="another piece of the text"):
        model(**inputs, shift_labels=shifted)


def test_labels_ask_for_images_where_they_are(processor, model):
    inputs = inputs_of(processor, [f"a {IMAGE} b"])
    labels = inputs["input_ids"].clone()
    labels[:, -1] = model.config.image_token_id
    with pytest.raises(ValueError, match="The labels ask for an image where the text has none"):
        model(**inputs, labels=labels)


# what is trained, and where it stands


def test_loaded_models_keep_what_setok_has_learned(processor, make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    loaded, report = SetokimForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    base = SetokimModel.from_pretrained(tmp_path)
    for model in (loaded, base, make_model(), SetokimForConditionalGeneration(loaded.config)):
        model.train()
        names = {name.split(".")[name.startswith("model.")] for name, p in model.named_parameters() if p.requires_grad}
        assert names - {"lm_head", "diffusion_head"} == {"multi_modal_projector", "language_model"}
        assert not any(module.training for module in (getattr(model, "model", model)).setok.modules())


def test_every_trained_parameter_gets_a_gradient(processor, model):
    """As a trainer of another library sees it: nothing that is trained is left without a gradient."""
    for text in (f"{IMAGE} shows {IMAGE}", "text alone"):
        inputs = inputs_of(processor, [text])
        labels = inputs["input_ids"].clone()
        labels[:, :2] = -100
        model.train()
        model.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in model.detokenizer.parameters())


def test_the_diffusion_loss_does_not_pull_the_tokens(processor, model):
    """Where SeTok is trained, the loss reaches it by what the language model reads, not by what it is to paint."""
    model.model.setok.requires_grad_(True)
    inputs = inputs_of(processor, [f"paint {IMAGE}"])
    labels = inputs["input_ids"].where(inputs["input_ids"] == model.config.image_token_id, -100)
    features = model.get_image_features(inputs["pixel_values"])
    hidden = torch.randn(len(features.visual_tokens[0]), model.config.text_config.hidden_size)
    loss = model.diffusion_head.loss(features.visual_tokens[0], hidden.requires_grad_())
    assert torch.autograd.grad(loss, hidden, retain_graph=True)[0].abs().max() > 0
    weight = model.model.setok.token_merger.patch_projection.weight
    assert torch.autograd.grad(loss, weight, allow_unused=True) == (None,)
    torch.manual_seed(0)
    whole = torch.autograd.grad(model(**inputs, labels=labels).diffusion_loss, weight)[0]
    torch.manual_seed(0)
    features = model.get_image_features(inputs["pixel_values"])
    features["visual_tokens"] = [tokens.detach() for tokens in features.visual_tokens]
    read = torch.autograd.grad(
        model(inputs["input_ids"], mm_encoder_outputs={"image": features}, labels=labels).diffusion_loss, weight
    )[0]
    assert whole.abs().max() > 0
    torch.testing.assert_close(whole, read)


def test_tensor_parallel_plan_covers_the_head(model):
    assert model.tp_plan["lm_head"] == "colwise_gather_output"


@pytest.mark.parametrize("devices", [{0: "10GiB", 1: "10GiB"}, {0: "12GiB", "cpu": "40GiB"}])
def test_paper_size_is_split_over_devices(devices):
    """Every weight and buffer has a place, which loading and accelerate ask for."""
    accelerate = pytest.importorskip("accelerate")
    from modeling_setok import SetokimConfig

    with torch.device("meta"):
        model = SetokimForConditionalGeneration(SetokimConfig()).to(torch.bfloat16)
    places = accelerate.infer_auto_device_map(
        model, max_memory=devices, no_split_module_classes=model._no_split_modules
    )
    assert len(set(places.values())) == 2
    accelerate.utils.check_device_map(model, places)
