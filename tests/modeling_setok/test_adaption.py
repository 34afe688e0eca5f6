"""Concept tokens in a tiny LLaVA: what the language model gets, and that everything around it goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, LlamaForCausalLM, LlavaForConditionalGeneration, TextStreamer

from modeling_setok.adaption import add_concept_tokens, calibrate_concept_tokens, remove_concept_tokens
from modeling_setok.density_peaks import cluster_tokens
from training.evaluation.tiny_llava import tiny_llava

PAD, IMAGE = 0, 4
ROOT = Path(__file__).parents[2]


@pytest.fixture
def model() -> LlavaForConditionalGeneration:
    return tiny_llava()[0]


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 3, 112, 112): patches of some colours each."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 4, 4, generator=generator).repeat_interleave(28, 2).repeat_interleave(28, 3)


def texts(*rows: list[int], side: str = "left") -> dict[str, torch.Tensor]:
    """Rows of token ids, in which IMAGE stands for the 64 patches of one, padded."""
    rows = [[token for i in row for token in ([i] * 64 if i == IMAGE else [i])] for row in rows]
    length = max(map(len, rows))
    padding = [[PAD] * (length - len(row)) for row in rows]
    both = zip(rows, padding, strict=True)
    ids = torch.tensor([row + pad if side == "right" else pad + row for row, pad in both])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def two_rows(side: str = "left") -> dict[str, torch.Tensor]:
    return texts([5, 6, IMAGE, 7, 8, 9], [5, IMAGE, 10], side=side) | {"pixel_values": pictures(2)}


GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}


def test_as_many_tokens_as_patches_change_nothing(model):
    inputs = two_rows()
    with torch.no_grad():
        logits, ids = model(**inputs).logits, model.generate(**inputs, **GREEDY)
    add_concept_tokens(model, fixed_tokens=64)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, logits)
    assert torch.equal(model.generate(**inputs, **GREEDY), ids)


def test_what_was_added_can_be_removed(model):
    inputs = two_rows()
    cls, attention = type(model), model.model.language_model.config._attn_implementation
    before = model(**inputs).logits
    add_concept_tokens(model)
    assert isinstance(model, cls) and type(model).__name__ == cls.__name__
    assert not torch.equal(model(**inputs).logits, before)
    remove_concept_tokens(model)
    assert type(model) is cls and not hasattr(model.config, "concept_tokens")
    assert model.model.language_model.config._attn_implementation == attention
    assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("weight", ["size", "none"])
def test_the_language_model_gets_means_at_the_seeds_places_weighed_by_size(model, weight):
    """Against the definition, by the language model alone on a row without padding."""
    inputs = texts([5, 6, IMAGE, 7, 8, 9]) | {"pixel_values": pictures(1)}
    with torch.no_grad():
        patches = model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
        clusters = cluster_tokens(patches[None], num_neighbors=4, max_tokens=None, threshold=0.4, token_order="raster")
        ids, seeds = clusters.cluster_ids[0], clusters.centers[0]
        assert 1 < len(seeds) < 64
        means = torch.stack([patches[ids == token].mean(0) for token in range(len(seeds))])
        sizes = torch.stack([(ids == token).sum() for token in range(len(seeds))])
        embed = model.get_input_embeddings()
        states = torch.cat([embed(torch.tensor([5, 6])), means, embed(torch.tensor([7, 8, 9]))])
        places = torch.cat([torch.tensor([0, 1]), seeds + 2, torch.tensor([66, 67, 68])])
        length = len(states)
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
        if weight == "size":
            mask[:, 2 : 2 + len(seeds)] += sizes.log()
        expected = model.lm_head(
            model.model.language_model(
                inputs_embeds=states[None], position_ids=places[None], attention_mask=mask[None, None]
            ).last_hidden_state
        )
        logits = add_concept_tokens(model, token_weight=weight, threshold=0.4)(**inputs).logits
    assert logits.shape[1] == 2 + 64 + 3
    torch.testing.assert_close(logits[:, [0, 1, -3, -2, -1]], expected[:, [0, 1, -3, -2, -1]], rtol=0, atol=1e-5)
    # The last patch is followed by text: it has the state of the last token before it
    torch.testing.assert_close(logits[:, 65], expected[:, 1 + len(seeds)], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "num_return_sequences": 3},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"repetition_penalty": 1.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("weight", ["size", "none"])
def test_generation_sees_what_forward_sees(model, options, weight):
    add_concept_tokens(model, token_weight=weight)
    inputs = two_rows()
    output = model.generate(**inputs, **(GREEDY | options), return_dict_in_generate=True, output_logits=True)
    times = len(output.sequences) // 2
    repeated = {name: x.repeat_interleave(times, 0) for name, x in inputs.items()}
    length = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], repeated["input_ids"])
    repeated["input_ids"] = output.sequences
    repeated["attention_mask"] = torch.nn.functional.pad(repeated["attention_mask"], (0, 5), value=1)
    with torch.no_grad():
        forced = model(**repeated).logits[:, length - 1 : -1]
    torch.testing.assert_close(torch.stack(output.logits, 1), forced, rtol=0, atol=1e-5)


def test_beams_keep_their_images(model):
    """Beams of two rows with different images find what each row finds alone."""
    add_concept_tokens(model)
    inputs = two_rows()
    options = GREEDY | {"num_beams": 3, "num_return_sequences": 2}
    both = model.generate(**inputs, **options)
    for row in range(2):
        alone = {name: x[row : row + 1] for name, x in inputs.items()}
        assert torch.equal(model.generate(**alone, **options), both[2 * row : 2 * row + 2])


@pytest.mark.parametrize("assistant", ["prompt lookup", "a model of text", "the model with all patches"])
def test_assisted_generation_is_greedy_generation(model, assistant):
    add_concept_tokens(model, threshold=0.4)
    inputs = {name: x[:1] for name, x in two_rows().items()}
    greedy = model.generate(**inputs, **GREEDY)
    if assistant == "prompt lookup":
        options = {"prompt_lookup_num_tokens": 2}
    elif assistant == "a model of text":
        options = {"assistant_model": LlamaForCausalLM(model.config.text_config).eval()}
    else:
        options = {"assistant_model": tiny_llava()[0]}
    assert torch.equal(model.generate(**inputs, **GREEDY, **options), greedy)


def test_limits_of_length_count_the_whole_prompt(model):
    add_concept_tokens(model)
    inputs = two_rows()
    length = inputs["input_ids"].shape[1]
    assert model.generate(**inputs, max_length=length + 3, min_length=length + 3).shape[1] == length + 3


def test_a_streamer_gets_the_new_tokens(model):
    class Tokenizer:
        def decode(self, ids, **options):
            return " ".join(map(str, ids)) + " "

    class Streamer(TextStreamer):
        text = ""

        def on_finalized_text(self, text, stream_end=False):
            self.text += text

    add_concept_tokens(model)
    streamer = Streamer(Tokenizer(), skip_prompt=True)
    inputs = {name: x[:1] for name, x in two_rows().items()}
    ids = model.generate(**inputs, **GREEDY, streamer=streamer)
    assert streamer.text.split() == [str(i) for i in ids[0, -5:].tolist()]


def test_a_row_alone_is_the_row_in_a_batch(model):
    """Rows with no, one and two images, which have different numbers of tokens."""
    add_concept_tokens(model)
    rows = [[5, IMAGE, 7, IMAGE, 8], [6, 7, 8], [9, 9, IMAGE]]
    images = pictures(3)
    batch = texts(*rows) | {"pixel_values": images}
    with torch.no_grad():
        together = model(**batch).logits
        for row, own in enumerate([images[:2], None, images[2:]]):
            alone = texts(rows[row]) | ({} if own is None else {"pixel_values": own})
            logits = model(**alone).logits
            torch.testing.assert_close(together[row, -logits.shape[1] :], logits[0], rtol=0, atol=1e-5)


def test_the_side_of_the_padding_does_not_matter(model):
    add_concept_tokens(model)
    with torch.no_grad():
        left, right = (model(**two_rows(side)).logits[1] for side in ("left", "right"))
    torch.testing.assert_close(left[-66:], right[:66], rtol=0, atol=1e-5)


def test_labels_count_what_remains(model):
    """The loss is that of the logits at the text's places; gradients reach the projector."""
    add_concept_tokens(model)
    inputs = two_rows("right")
    labels = inputs["input_ids"].masked_fill(torch.isin(inputs["input_ids"], torch.tensor([IMAGE, PAD])), -100)
    output = model(**inputs, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_learns_through_concept_tokens(model, checkpointing):
    add_concept_tokens(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    tuned = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj", "up_proj"])).train()
    inputs = two_rows("right")
    labels = inputs["input_ids"].masked_fill(torch.isin(inputs["input_ids"], torch.tensor([IMAGE, PAD])), -100)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(20):
        loss = tuned(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


def test_checkpointed_gradients_are_the_gradients(model):
    """The weights of the tokens reach a layer also when it is computed again for its gradient."""
    add_concept_tokens(model).train()
    inputs = two_rows("right")
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients.append(model.model.language_model.layers[0].self_attn.q_proj.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_a_saved_model_loads_by_the_code_beside_it(model, tmp_path):
    add_concept_tokens(model, criterion="product", threshold=0.4, largest_share=0.25)
    calibrate_concept_tokens(model, [two_rows()])
    inputs = two_rows()
    expected = model.generate(**inputs, **GREEDY)
    model.save_pretrained(tmp_path / "model")
    torch.save(inputs, tmp_path / "inputs.pt")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"] and config["model_type"] == "llava"
    script = (
        "import torch; from transformers import AutoModelForImageTextToText as Auto; "
        "model = Auto.from_pretrained('model', trust_remote_code=True); "
        f"ids = model.generate(**torch.load('inputs.pt'), **{GREEDY}); "
        "assert not any(name.startswith('modeling_setok') for name in __import__('sys').modules); "
        "print(model.config.concept_tokens['scale'], ids.tolist(), sep='\\n')"
    )
    environment = {"HF_HOME": str(tmp_path), "PATH": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    scale, ids = result.stdout.strip().splitlines()[-2:]
    assert float(scale) == model.config.concept_tokens["scale"] > 0
    assert json.loads(ids) == expected.tolist()


def test_weights_keep_their_names_in_files(model, tmp_path):
    """Those of LLaVA are not those of its modules: what was loaded is saved under them, and loaded from them again."""
    model.save_pretrained(tmp_path / "bare")
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "bare")
    for name, changed in (("made", model), ("loaded", loaded)):
        add_concept_tokens(changed).save_pretrained(tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        assert weights.keys() == load_file(tmp_path / "bare/model.safetensors").keys()
        again = AutoModelForImageTextToText.from_pretrained(tmp_path / name, trust_remote_code=True)
        bare = LlavaForConditionalGeneration.from_pretrained(tmp_path / name)
        for other in (again, bare):
            assert other.state_dict().keys() == model.state_dict().keys()
            assert all(torch.equal(value, model.state_dict()[key]) for key, value in other.state_dict().items())


def test_no_token_stands_for_more_than_the_largest_share(model):
    inputs = two_rows()
    largest = {}
    for share in (None, 0.25):
        add_concept_tokens(model, largest_share=share)
        model(**inputs)
        largest[share] = model.base_model.last_seen["image"][0].sizes.max()
        remove_concept_tokens(model)
    assert largest[0.25] <= 16 < largest[None]


def test_what_is_not_served_is_refused(model):
    with pytest.raises(ValueError, match="no concept tokens to remove"):
        remove_concept_tokens(model)
    with pytest.raises(ValueError, match="give one of the two"):
        add_concept_tokens(model, largest_share=0.5, fixed_tokens=4)
    with pytest.raises(ValueError, match="token_weight must be one of"):
        add_concept_tokens(model, token_weight="area")
    model.model.language_model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match='attn_implementation="sdpa"'):
        add_concept_tokens(model)
    assert not hasattr(model.config, "concept_tokens")
    model.model.language_model.config._attn_implementation_internal = "sdpa"
    add_concept_tokens(model)
    with pytest.raises(ValueError, match="already"):
        add_concept_tokens(model)
    inputs = two_rows()
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="Set no attention after add_concept_tokens"):
        model(**inputs)
    model = add_concept_tokens(tiny_llava()[0])
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ValueError, match="needs input_ids"):
        model(inputs_embeds=embeds, pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match="do not fit the 64 patches"):
        model(**inputs | {"pixel_values": pictures(1)})
    packed = torch.arange(inputs["input_ids"].shape[1]) % 30
    with pytest.raises(ValueError, match="packing=False"):
        model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"], position_ids=packed.expand(2, -1))
    cache = model(**inputs, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="generate"):
        model(input_ids=torch.tensor([[5], [6]]), past_key_values=cache)


def test_a_vision_model_with_other_states_is_not_compared_by_them(model):
    add_concept_tokens(model, features="encoder")
    with pytest.raises(ValueError, match="65 states|130 states"):
        model(**two_rows())
