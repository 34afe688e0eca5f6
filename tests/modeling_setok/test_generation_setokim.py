"""Generation: every row as if alone, text and images in every mode, visual tokens, images and masks made of them."""

import math

import pytest
import torch
from transformers import GenerationConfig, pipeline
from transformers.generation.streamers import BaseStreamer

from modeling_setok import SetokimGenerateOutput, SetokimImageFeatures
from modeling_setok.visual_sampling import VisualTokenLogitsProcessor
from tests.setokim_testing import IMAGE, inputs_of, pictures

TEXTS = ["no picture", f"one {IMAGE} here", f"{IMAGE} a {IMAGE}", f"{IMAGE}{IMAGE} and {IMAGE} three"]
PAINT = ["no picture: [Img]", f"{IMAGE} edit: [Img]", f"{IMAGE}{IMAGE} mix of both: [Img]"]


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]


def generate(model, inputs: dict, **options) -> SetokimGenerateOutput:
    return model.generate(**inputs, return_dict_in_generate=True, **({"max_new_tokens": 12} | options))


def answers(model, inputs: dict, output) -> list[list[int]]:
    """Generated ids of each row, up to the end of sequence."""
    eos, found = model.generation_config.eos_token_id, []
    for ids in output.sequences[:, inputs["input_ids"].shape[1] :].tolist():
        found.append(ids[: ids.index(eos) + 1] if eos in ids else ids)
    return found


def singles(processor, texts: list[str]) -> list[dict]:
    """Inputs of each text alone, with the pictures that it has in the batch."""
    images = iter(pictures(sum(text.count("<image>") for text in texts)))
    rows = [[next(images) for _ in range(text.count("<image>"))] for text in texts]
    return [dict(processor(images=row or None, text=[text])) for row, text in zip(rows, texts, strict=True)]


@pytest.fixture(params=[0, 8], ids=["plain", "copying"])
def painter(make_model, request):
    """A model that likes to paint: images of several tokens, then text again; its head copies tokens or does not."""
    model = make_model(copy_dim=request.param)
    config = model.config
    bias = {(config.image_start_token_id,): 6.0, (config.image_token_id,): 1.0, (config.image_end_token_id,): 0.0}
    model.generation_config.sequence_bias = bias
    model.generation_config.min_new_tokens = 30
    model.generation_config.max_new_tokens = 30
    return model


def assert_well_formed(config, ids: list[int], inside: bool = False, limit: int = 12) -> int:
    """Images have between 1 and `limit` visual tokens and nothing else; returns their number."""
    count, images = 0, 0
    for token in ids:
        assert token != config.mask_token_id
        if inside:
            assert token in (config.image_token_id, config.image_end_token_id)
            count += token == config.image_token_id
            if token == config.image_end_token_id:
                assert 1 <= count <= limit
                inside, images = False, images + 1
        else:
            assert token not in (config.image_token_id, config.image_end_token_id)
            inside, count = token == config.image_start_token_id, 0
    assert count <= limit
    return images + (inside and count > 0)


# every row alone


def test_four_prompts_with_0_to_3_images(processor, model):
    inputs = inputs_of(processor, TEXTS, "left")
    got = answers(model, inputs, generate(model, inputs))
    for row, alone in zip(got, singles(processor, TEXTS), strict=True):
        assert [row] == answers(model, alone, generate(model, alone)) and len(row) == 12
    assert len({tuple(row) for row in got}) == 4


@pytest.mark.parametrize("options", [{}, {"generators": True}, {"generators": True, "visual_guidance_scale": 2.0}])
def test_rows_that_paint(processor, painter, options):
    given = generators(3) if options.pop("generators", False) else None
    inputs = inputs_of(processor, PAINT, "left")
    output = generate(painter, inputs, generator=given, max_new_tokens=30, **options)
    got = answers(painter, inputs, output)
    assert len({len(row[0]) for row in output.visual_tokens}) > 1  # rows end their images at different steps
    fresh = generators(3) if given else [None] * 3
    for number, alone in enumerate(singles(processor, PAINT)):
        generator = [fresh[number]] if given else None
        single = generate(painter, alone, generator=generator, max_new_tokens=30, **options)
        assert [got[number]] == answers(painter, alone, single)
        assert len(output.visual_tokens[number]) == len(single.visual_tokens[0]) > 1
        for image, expected in zip(output.visual_tokens[number], single.visual_tokens[0], strict=True):
            torch.testing.assert_close(image, expected, rtol=0, atol=1e-3)


def test_beam_search_writes_text_only(processor, model):
    start = model.config.image_start_token_id
    inputs = inputs_of(processor, TEXTS, "left")
    options = {"num_beams": 3, "sequence_bias": {(start,): 20.0}, "max_new_tokens": 6}
    got = answers(model, inputs, generate(model, inputs, **options))
    for row, alone in zip(got, singles(processor, TEXTS), strict=True):
        assert [row] == answers(model, alone, generate(model, alone, **options))
        assert start not in row
    ids, config = inputs.pop("input_ids"), GenerationConfig(**options, pad_token_id=0)
    by_config = model.generate(ids, generation_config=config, **inputs)
    assert torch.equal(by_config, model.generate(ids, config, **inputs))
    assert all(row == ids[: len(row)] for row, ids in zip(got, by_config[:, ids.shape[1] :].tolist(), strict=True))


def test_several_answers_to_a_prompt(processor, painter):
    inputs = inputs_of(processor, PAINT[:2], "left")
    output = generate(painter, inputs, num_return_sequences=2, do_sample=True, generator=generators(4))
    assert len(output.sequences) == len(output.visual_tokens) == 4
    assert torch.equal(output.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"].repeat_interleave(2, 0))
    first = [images[0][0] for images in output.visual_tokens]
    assert not torch.allclose(first[0], first[1]) and not torch.allclose(first[2], first[3])
    beams = generate(painter, inputs_of(processor, TEXTS, "left"), num_beams=3, num_return_sequences=2)
    assert len(beams.sequences) == 8


# one result, many ways


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_text_by_any_cache(processor, model, options):
    inputs = inputs_of(processor, TEXTS, "left")
    assert torch.equal(generate(model, inputs, **options).sequences, generate(model, inputs).sequences)


def test_images_by_the_static_cache(processor, painter):
    inputs = inputs_of(processor, PAINT, "left")
    expected, got = generate(painter, inputs), generate(painter, inputs, cache_implementation="static")
    assert torch.equal(got.sequences, expected.sequences)
    torch.testing.assert_close(got.visual_tokens, expected.visual_tokens, rtol=0, atol=1e-3)


def test_text_by_prompt_lookup(processor, model):
    inputs = singles(processor, TEXTS)[3]
    expected = generate(model, inputs).sequences
    assert torch.equal(generate(model, inputs, prompt_lookup_num_tokens=2).sequences, expected)


def test_chunked_prefill(processor, model):
    text, *_, pictures = singles(processor, TEXTS)
    assert torch.equal(generate(model, text, prefill_chunk_size=4).sequences, generate(model, text).sequences)
    for size in (1, 4, 7):  # some end within an image
        chunked = generate(model, pictures, prefill_chunk_size=size)
        assert torch.equal(chunked.sequences, generate(model, pictures).sequences)


def test_streamer_gets_what_is_generated(processor, painter):
    class Recorder(BaseStreamer):
        def __init__(self):
            self.values = []

        def put(self, value):
            self.values.append(value.flatten().tolist())

        def end(self):
            self.values.append("end")

    streamer, inputs = Recorder(), inputs_of(processor, PAINT[1:2], "left")
    output = painter.generate(**inputs, streamer=streamer)
    assert streamer.values[-1] == "end"
    streamed = [token for value in streamer.values[1:-1] for token in value]
    assert streamed == output[0, inputs["input_ids"].shape[1] :].tolist()


def test_without_attention_mask_padding_is_found(processor, model):
    inputs = inputs_of(processor, TEXTS, "left")
    expected = generate(model, inputs).sequences
    del inputs["attention_mask"]
    assert torch.equal(generate(model, inputs).sequences, expected)


@pytest.mark.parametrize("do_sample", [False, True])
def test_replay_of_an_interleaved_sequence(processor, painter, do_sample):
    """Fed all at once, prompt and answer with its visual tokens give the logits of their generation."""
    model, config, changes = painter, painter.config, 0
    for text, inputs in zip(PAINT, singles(processor, PAINT), strict=True):
        options = {"do_sample": do_sample, "generator": generators(1), "max_new_tokens": 30}
        output = generate(model, inputs, output_logits=True, **options)
        answer = output.sequences[:, inputs["input_ids"].shape[1] :]
        changes += (answer[0] == config.image_token_id).long().diff().count_nonzero()
        visual = []
        if "<image>" in text:
            visual += model.get_image_features(inputs["pixel_values"]).visual_tokens
        visual += [model.model.normalize_tokens(tokens) for tokens in output.visual_tokens[0]]
        prompt = []
        for token in inputs["input_ids"][0].tolist():
            count = len(visual[prompt.count(-1)]) if token == config.image_token_id else 1
            prompt += [token] * count + [-1] * (token == config.image_token_id)
        prompt = [token for token in prompt if token != -1]
        ids = torch.cat([torch.tensor([prompt]), answer], dim=1)
        assert int((ids == config.image_token_id).sum()) == sum(map(len, visual))
        features = SetokimImageFeatures(
            pooler_output=[model.model.multi_modal_projector(tokens) for tokens in visual], visual_tokens=visual
        )
        with torch.no_grad():
            logits = model(ids, mm_encoder_outputs={"image": features}).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(logits, torch.cat(output.logits), rtol=0, atol=2e-3)
    assert changes > 2 * len(PAINT)  # image, text, image


# images


@pytest.mark.parametrize("do_sample", [False, True])
def test_sequences_are_well_formed(processor, painter, do_sample):
    inputs = inputs_of(processor, TEXTS + PAINT, "left")
    output = generate(painter, inputs, do_sample=do_sample, max_visual_tokens=5, max_new_tokens=40)
    assert isinstance(output, SetokimGenerateOutput)
    rows = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    for number, (ids, images) in enumerate(zip(rows, output.visual_tokens, strict=True)):
        count = assert_well_formed(painter.config, ids, inside=number >= len(TEXTS), limit=5)
        assert len(images) == count > 0
        assert sum(map(len, images)) == ids.count(painter.config.image_token_id)
        assert all(image.shape[1] == 16 and image.dtype == torch.float32 for image in images)


@pytest.mark.parametrize("limit", [1, 3])
def test_limit_on_visual_tokens(processor, painter, limit):
    painter.generation_config.sequence_bias = {(painter.config.image_token_id,): 50.0}
    inputs = inputs_of(processor, PAINT, "left")
    output = generate(painter, inputs, max_visual_tokens=limit, max_new_tokens=limit + 1)
    assert [len(images[0]) for images in output.visual_tokens] == [limit] * 3
    assert (output.sequences[:, -1] == painter.config.image_end_token_id).all()
    default = generate(painter, inputs, max_new_tokens=20)
    assert [len(images[0]) for images in default.visual_tokens] == [painter.config.vision_config.max_tokens] * 3


def test_generation_that_stops_within_an_image(processor, painter):
    """The last visual token, which the language model never reads, is sampled, too."""
    painter.generation_config.sequence_bias = {(painter.config.image_token_id,): 50.0}
    inputs = inputs_of(processor, PAINT, "left")
    longer = generate(painter, inputs, max_new_tokens=4)
    for count in (1, 3):
        output = generate(painter, inputs, max_new_tokens=count)
        for images, expected in zip(output.visual_tokens, longer.visual_tokens, strict=True):
            torch.testing.assert_close(images[0], expected[0][:count], rtol=0, atol=1e-4)


def test_logits_processor_by_hand(model):
    config = model.config
    start, image, end, mask = (
        config.image_start_token_id, config.image_token_id, config.image_end_token_id, config.mask_token_id,
    )  # fmt: skip
    words = set(range(10)) | {start}
    cases = [
        ([1, 2, 3, 4, 5, 6], words),
        ([start, image, end, 4, 5, 6], words),
        ([1, 2, 3, 4, 5, start], {image}),
        ([1, 2, 3, 4, start, image], {image, end}),
        ([1, 2, start, image, image, image], {end}),
        ([start, image, end, 3, start, image], {image, end}),
    ]
    ids = torch.tensor([case for case, _ in cases])
    scores = torch.randn(len(cases), config.text_config.vocab_size)
    processor = VisualTokenLogitsProcessor(config, max_visual_tokens=3, allow_images=True)
    processed = processor(ids, scores)
    for row, (_, expected) in enumerate(cases):
        allowed = set(processed[row].isfinite().nonzero()[:, 0].tolist())
        if expected is words:
            assert words <= allowed and not allowed & {image, end, mask}
        else:
            assert allowed == expected
        assert torch.equal(processed[row][list(allowed)], scores[row][list(allowed)])
    text_only = VisualTokenLogitsProcessor(config, max_visual_tokens=3, allow_images=False)(ids[:1], scores[:1])
    assert text_only[0, start] == -torch.inf


def test_grounded_tokens_are_the_nearest_of_their_own_image(processor, model):
    pixel_values = processor.image_processor(pictures(2))["pixel_values"]
    own = [model.model.denormalize_tokens(t) for t in model.get_image_features(pixel_values).visual_tokens]
    assert min(map(len, own)) > 2
    noisy = [own[0][[2, 0, 2]] + 1e-3, own[1][[1]] - 1e-3]
    grounded = model.ground_tokens(pixel_values, noisy)
    torch.testing.assert_close(grounded, [own[0][[0, 2]], own[1][[1]]])
    foreign = model.ground_tokens(pixel_values, [own[1][:1], own[0][:1]])
    for tokens, candidates in zip(foreign, own, strict=True):
        assert (tokens[:, None] == candidates).all(-1).any()


# randomness and guidance


def test_greedy_is_deterministic_and_leaves_the_global_generator_alone(processor, painter):
    inputs = inputs_of(processor, PAINT, "left")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = generate(painter, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = generate(painter, inputs)
    assert torch.equal(first.sequences, second.sequences)
    torch.testing.assert_close(first.visual_tokens, second.visual_tokens, rtol=0, atol=0)


def test_generator_and_temperature(processor, painter):
    inputs = inputs_of(processor, PAINT[:1], "left")

    def paint(seed, **options):
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        return generate(painter, inputs, generator=generator, max_new_tokens=1, **options).visual_tokens[0][0]

    assert torch.equal(paint(1), paint(1)) and not torch.allclose(paint(1), paint(2))
    assert torch.equal(paint(1, visual_temperature=0.0), paint(2, visual_temperature=0.0))
    assert not torch.allclose(paint(1, visual_temperature=0.5), paint(1))
    assert not torch.allclose(paint(1, num_diffusion_steps=2), paint(1))
    assert torch.equal(paint(1, num_diffusion_steps=4), paint(1))
    assert torch.equal(paint(1, visual_guidance_scale=1.0), paint(1))
    assert not torch.allclose(paint(1, visual_guidance_scale=3.0), paint(1))
    torch.manual_seed(3)
    sampled = paint(None, do_sample=True)
    assert not torch.allclose(paint(None, do_sample=True), sampled)
    torch.manual_seed(3)
    assert torch.equal(paint(None, do_sample=True), sampled)


def test_a_models_own_options(processor, painter, tmp_path):
    """Options of visual tokens in the generation config are saved with the model, and give way to arguments."""
    options = {
        "visual_temperature": 0.5,
        "visual_guidance_scale": 3.0,
        "num_diffusion_steps": 2,
        "max_visual_tokens": 3,
    }
    inputs = inputs_of(processor, PAINT, "left")
    default, expected = generate(painter, inputs), generate(painter, inputs, **options)
    GenerationConfig(**options).save_pretrained(tmp_path)
    saved = GenerationConfig.from_pretrained(tmp_path)
    for name in options:
        setattr(painter.generation_config, name, getattr(saved, name))
    assert torch.equal(generate(painter, inputs).sequences, expected.sequences)
    torch.testing.assert_close(generate(painter, inputs).visual_tokens, expected.visual_tokens, rtol=0, atol=0)
    back = generate(
        painter, inputs, visual_temperature=1.0, visual_guidance_scale=1.0, num_diffusion_steps=4, max_visual_tokens=12
    )
    assert torch.equal(back.sequences, default.sequences)
    torch.testing.assert_close(back.visual_tokens, default.visual_tokens, rtol=0, atol=0)


# refusals


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_visual_tokens": 0}, "max_visual_tokens must be a whole number of at least 1, got 0"),
        ({"max_visual_tokens": math.nan}, "max_visual_tokens must be a whole number"),
        ({"max_visual_tokens": "5"}, "max_visual_tokens must be .*, got '5'"),
        ({"visual_temperature": -1.0}, "visual_temperature must be a finite number of at least 0"),
        ({"visual_temperature": math.nan}, "visual_temperature must be a finite number"),
        ({"visual_guidance_scale": -1.0}, "visual_guidance_scale must be a finite number of at least 0"),
        ({"visual_guidance_scale": math.inf}, "visual_guidance_scale must be a finite number"),
        ({"visual_guidance_scale": 1e38}, "not finite: lower visual_guidance_scale"),
        ({"num_diffusion_steps": 0}, "num_diffusion_steps must be a whole number of at least 1"),
        ({"num_diffusion_steps": 1001}, "num_diffusion_steps must be at most the 1000"),
        ({"max_new_tokens": "5"}, "max_new_tokens must be a whole number"),
        ({"temperature": math.inf, "do_sample": True}, "temperature must be a finite number"),
        ({"top_k": [3]}, "top_k must be a whole number"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size gives text only"),
        ({"prompt_lookup_num_tokens": 2}, "assisted decoding gives text only"),
        ({"num_beams": 2}, "beam search gives text only"),
        ({"generation_config": GenerationConfig(num_beams=2)}, "beam search gives text only"),
        ({"use_cache": False}, "needs the cache"),
        ({"generator": [torch.Generator()]}, "as many generators, got 1"),
    ],
    ids=str,
)
def test_refused_options(processor, model, options, message):
    inputs = inputs_of(processor, PAINT, "left")
    with pytest.raises(ValueError, match=message):
        generate(model, inputs, **options)


def test_prompts_and_answers_within_the_positions(processor, make_model):
    """Of 512 positions, with the visual tokens of an image."""
    model = make_model()
    inputs = inputs_of(processor, [f"{IMAGE}{'a' * 490}"], "left")
    counts = [len(tokens) for tokens in model.get_image_features(inputs["pixel_values"]).visual_tokens]
    length = inputs["input_ids"].shape[1] - 1 + sum(counts)
    assert model.generate(**inputs, max_new_tokens=512 - length).shape[1] > inputs["input_ids"].shape[1]
    with pytest.raises(ValueError, match=f"has {length} tokens.* max_new_tokens is {513 - length}.* 512 positions"):
        model.generate(**inputs, max_new_tokens=513 - length)
    with pytest.raises(ValueError, match="max_length is 513: that is more than the 512 positions"):
        model.generate(**inputs, max_length=513)
    inputs = inputs_of(processor, [f"{IMAGE}{'a' * 520}"], "left")
    with pytest.raises(ValueError, match="more than the 512 positions of the language model"):
        model.generate(**inputs)
    assert model(**inputs).logits.isfinite().all()  # as for any model of transformers with rotary positions
    learned = make_model("gpt2")
    limit = learned.config.text_config.max_position_embeddings
    with pytest.raises(ValueError, match=f"more than the {limit} positions of the language model"):
        learned(**inputs_of(processor, [f"{IMAGE}{'a' * limit}"], "left"))
    for settings in ({"rope_type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}):
        model.config.text_config.rope_parameters = {"rope_theta": 10000.0, **settings}
        assert model(**inputs).logits.isfinite().all()


def test_refused_images(processor, model):
    inputs = inputs_of(processor, TEXTS, "left")
    del inputs["pixel_values"]
    with pytest.raises(ValueError, match="there are no pixel_values"):
        model.generate(**inputs, max_new_tokens=2)


# pixels and masks


def test_images_are_painted_from_their_own_tokens(model):
    tokens = [torch.randn(n, 16) for n in (3, 1, 5)]
    images = model.decode_images(tokens)
    size = model.config.vision_config.detokenizer_config.image_size
    assert images.shape == (3, 3, size, size) and not images.requires_grad
    for row, own in zip(images, tokens, strict=True):
        torch.testing.assert_close(row, model.decode_images([own])[0], rtol=0, atol=1e-5)


def test_encoded_and_decoded_is_the_reconstruction(processor, model):
    pixels = processor.image_processor(pictures(3))["pixel_values"]
    with torch.no_grad():
        setok = model.model.setok(pixels)
        expected = model.detokenizer(setok.last_hidden_state, setok.token_mask)
    tokens = model.model.setok.get_image_features(pixels).pooler_output
    torch.testing.assert_close(model.decode_images(tokens), expected, rtol=0, atol=1e-5)


def test_masks_are_of_their_own_tokens(processor, model):
    pixels = processor.image_processor(pictures(3))["pixel_values"]
    tokens = [torch.randn(n, 16) for n in (3, 1, 5)]
    logits = model.predict_masks(pixels, tokens)
    assert logits.shape == (3, 24, 24) and logits.dtype == torch.float32 and not logits.requires_grad
    for row in range(3):
        alone = model.predict_masks(pixels[row : row + 1], tokens[row : row + 1])
        torch.testing.assert_close(logits[row], alone[0], rtol=0, atol=1e-5)


def test_predicted_masks_are_those_of_training(processor, model):
    text = f"{IMAGE} dog: [Img]<mask>[/Img]"
    inputs, masks = inputs_of(processor, [text]), torch.rand(1, 24, 24).round()
    with torch.no_grad():
        outputs = model(**inputs, masks=masks, labels=torch.full_like(inputs["input_ids"], -100))
        features = model.model.get_placeholder_features(inputs["input_ids"], inputs["pixel_values"], masks)
    tokens = [model.model.denormalize_tokens(features.visual_tokens[1])]
    torch.testing.assert_close(
        model.predict_masks(inputs["pixel_values"], tokens), outputs.mask_logits, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("tokens", [[], [torch.zeros(0, 16)], [torch.zeros(16)]], ids=["none", "empty", "flat"])
def test_refused_visual_tokens(model, tokens):
    with pytest.raises(ValueError, match="list of"):
        model.decode_images(tokens)
    with pytest.raises(ValueError, match="as many images, got 4"):
        model.predict_masks(torch.zeros(4, 3, 24, 24), tokens)


# pipeline


def test_pipeline(processor, model):
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
        for image, text in zip(pictures(3), ("What?", "Describe the picture.", "It"), strict=True)
    ]

    def texts(**options) -> list[str]:
        results = pipe(text=chats, return_full_text=False, generate_kwargs={"max_new_tokens": 8}, **options)
        return [(result[0] if isinstance(result, list) else result)["generated_text"] for result in results]

    alone = texts(batch_size=1)
    assert texts(batch_size=2) == alone and len(set(alone)) == 3
    asked = model.ask(processor, pictures(3), ["What?", "Describe the picture.", "It"], max_new_tokens=8)
    assert [text.strip() for text in alone] == asked
