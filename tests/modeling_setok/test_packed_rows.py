"""Rows end to end in the language model: what a batch gives is what it gives padded, and no row sees another."""

import pytest
import torch
from transformers import AttentionInterface, AutoConfig, AutoModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from modeling_setok.packed_rows import check_rows_stay_apart, packed_rows
from tests.setokim_testing import BATCHES, IMAGE, MASK, TEXTS, inputs_of

LOSSES = ("loss", "text_loss", "diffusion_loss", "mask_loss")
MIXED = [*TEXTS, f"{IMAGE} dog: {MASK}", f"Make it red: {IMAGE} done: {IMAGE}", f"{IMAGE}{IMAGE} cat {MASK} dog {MASK}"]


def language_model_inputs(model, monkeypatch) -> list[dict]:
    """What the language model is given from now on."""
    seen, forward = [], model.model.language_model.forward

    def record(*args, **kwargs):
        seen.append(kwargs)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model.language_model, "forward", record)
    return seen


def learn(processor, model, texts, side="right", **options):
    """Outputs and gradients of a batch whose targets begin at the fifth token."""
    inputs = inputs_of(processor, texts, side)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"].cumsum(1) * inputs["attention_mask"] < 5, -100)
    count = sum(text.count("<mask>") for text in texts)
    masks = torch.rand(count, 24, 24, generator=torch.Generator().manual_seed(2)).round() if count else None
    model.zero_grad()
    torch.manual_seed(1)  # of the diffusion loss
    outputs = model(**inputs, masks=masks, labels=labels, use_cache=False, **options)
    outputs.loss.backward()
    return outputs, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(processor, model, texts, **options) -> None:
    expected, gradients = learn(processor, model, texts, **options)
    got, packed_gradients = learn(processor, model, texts, pack_rows=True, **options)
    for name in LOSSES:
        assert (name in got) == (name in expected)
        if name in expected:
            torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5)
    real = inputs_of(processor, texts, options.get("side", "right"))["attention_mask"].bool()
    torch.testing.assert_close(got.logits[real], expected.logits[real], rtol=1e-4, atol=1e-4)
    assert gradients.keys() == packed_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def test_rows_by_hand():
    mask = torch.tensor([[0, 0, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]])
    short = packed_rows(mask, in_one=False)
    assert short.source.tolist() == [[3, 4, 5], [6, 7, 2], [9, -1, -1]]
    assert short.position_ids.tolist() == [[0, 1, 2], [0, 1, 0], [0, 0, 0]]
    one = packed_rows(mask, in_one=True)
    assert one.source.tolist() == [[3, 4, 5, 6, 7, 2, 9]]
    assert one.position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 0]]
    states = torch.randn(4, 3, 2)
    for packing in (short, one):
        torch.testing.assert_close(packing.unpack(packing.pack(states)), states * mask[..., None], rtol=0, atol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_packed_rows_give_the_same_losses_and_gradients(processor, make_model, kind, attention):
    model = make_model(kind)
    model.set_attn_implementation(attention)
    assert_same(processor, model, MIXED)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_either_side(processor, model, side):
    assert_same(processor, model, MIXED, side=side)


@pytest.mark.parametrize("texts", [*BATCHES.values(), ["only one row"], [f"one {IMAGE} alone"]])
def test_every_batch(processor, make_model, texts):
    """Without images, without targets of a kind, of a single row; in training, where idle parts take part."""
    assert_same(processor, make_model().train(), texts)


def test_the_language_model_reads_no_padding(processor, model, monkeypatch):
    inputs = inputs_of(processor, MIXED)
    seen = language_model_inputs(model, monkeypatch)
    for pack_rows in (False, True):
        model(**inputs, masks=torch.ones(3, 24, 24), pack_rows=pack_rows)
    padded, packed = seen[0], seen[-1]
    assert packed["attention_mask"] is None and packed["use_cache"] is False
    rows, length = padded["attention_mask"].shape
    lengths = sorted(padded["attention_mask"].sum(1).tolist())
    places = packed["position_ids"]
    assert places.shape[1] == lengths[-1] <= length and places.shape[0] < rows
    starts = (places == 0).nonzero()[:, 1].tolist()
    assert len(starts) == rows + places.numel() - sum(lengths), "a start for each row, and each place left over"


@pytest.mark.parametrize("row", range(3))
def test_a_row_changes_no_other(processor, model, row):
    inputs = inputs_of(processor, [f"{IMAGE} a dog and", "no picture", f"a long text about {IMAGE} and {IMAGE}"])
    changed = {name: value.clone() for name, value in inputs.items()}
    changed["input_ids"][row, 3] = 7
    with torch.no_grad():
        before, after = (model(**one, pack_rows=True).last_hidden_state for one in (inputs, changed))
    differs = (before - after).abs().amax((1, 2))
    assert differs[row] > 1e-3
    assert differs[torch.arange(3) != row].max() == 0


def test_embeddings_in_place_of_ids(processor, model):
    inputs = inputs_of(processor, MIXED[:4])
    with torch.no_grad():
        expected = model(**inputs, pack_rows=True).logits
        embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
        torch.testing.assert_close(model(**inputs, inputs_embeds=embeds, pack_rows=True).logits, expected)


def test_features_in_place_of_pixels(processor, model):
    inputs = inputs_of(processor, MIXED[:4])
    with torch.no_grad():
        expected = model(**inputs, pack_rows=True).logits
        features = {"image": model.get_image_features(inputs.pop("pixel_values"))}
        torch.testing.assert_close(model(**inputs, mm_encoder_outputs=features, pack_rows=True).logits, expected)


def test_without_an_attention_mask(processor, model):
    inputs = inputs_of(processor, ["a text", "b text"])
    del inputs["attention_mask"]
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs, pack_rows=True).logits, model(**inputs).logits)


def test_gradient_checkpointing(processor, make_model):
    model = make_model().train()
    _, expected = learn(processor, model, MIXED, pack_rows=True)
    model.gradient_checkpointing_enable()
    _, got = learn(processor, model, MIXED, pack_rows=True)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6)


# what is refused


def test_a_cache_and_other_positions_are_refused(processor, model):
    inputs = inputs_of(processor, ["a text", "another"])
    positions = torch.arange(inputs["input_ids"].shape[1])[None]
    for options in (
        {"use_cache": True},
        {"position_ids": positions},
        {"past_key_values": model(**inputs).past_key_values},
    ):
        with pytest.raises(ValueError, match="no cache, and positions of their own"):
            model(**inputs, **options, pack_rows=True)
    with pytest.raises(ValueError, match="no cache"):
        model.generate(**inputs, pack_rows=True, max_new_tokens=1)


def test_rows_that_are_expanded_already_are_refused(processor, model):
    inputs = inputs_of(processor, [f"a {IMAGE}"])
    features = model.get_image_features(inputs["pixel_values"])
    count = len(features.visual_tokens[0])
    ids = inputs["input_ids"][0]
    expanded = ids.repeat_interleave(torch.where(ids == model.config.image_token_id, count, 1))[None]
    with pytest.raises(ValueError, match="not expanded already"):
        model(expanded, mm_encoder_outputs={"image": features}, pack_rows=True)


@pytest.mark.parametrize("with_mask", [False, True])
def test_rows_that_a_caller_packed_are_refused_where_they_have_images(processor, model, with_mask):
    """Their positions restart in one text; each image would be given to all that come after."""
    inputs = inputs_of(processor, [f"a {IMAGE}"])
    ids = inputs["input_ids"].repeat(1, 2)
    positions = torch.arange(ids.shape[1] // 2).repeat(2)[None]
    pixels = inputs["pixel_values"].repeat(2, 1, 1, 1)
    with pytest.raises(ValueError, match="pack_rows=True"):
        model(ids, torch.ones_like(ids) if with_mask else None, positions, pixel_values=pixels)


SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
APART = {
    "llama": {"intermediate_size": 48}, "gpt_neox": {"intermediate_size": 48},
    "mistral": {"intermediate_size": 48, "sliding_window": 5, "num_key_value_heads": 2},
    "mixtral": {"intermediate_size": 48, "num_local_experts": 4, "num_key_value_heads": 2},
    "gemma2": {"intermediate_size": 48, "head_dim": 8, "num_key_value_heads": 2},
}  # fmt: skip
TOGETHER = {
    "falcon": {"alibi": False},  # takes position_ids, and makes no mask of them
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},  # learned positions, likewise
    "bloom": {"n_layer": 2, "n_head": 4},  # takes none
    "mamba": {},  # keeps a state
    "lfm2": {"intermediate_size": 48, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
}
STATE = {"mamba", "lfm2"}


def language_model(kind: str, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(kind, **SIZES, **settings), attn_implementation="eager")


def look_at(model) -> None:
    check_rows_stay_apart(model, model.get_input_embeddings()(torch.arange(50)))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", APART)
def test_language_models_that_keep_rows_apart(kind, autocast):
    model = language_model(kind, **APART[kind])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        look_at(model.train())
        assert all(module.training for module in model.modules())
    look_at(model.bfloat16())


@pytest.mark.parametrize("kind", TOGETHER)
def test_language_models_that_do_not_are_refused(kind):
    reason = "a state goes from row to row" if kind in STATE else "they see each other, hidden states are off by"
    with pytest.raises(ValueError, match=f"cannot be packed for the language model {kind}.*{reason}"):
        look_at(language_model(kind, **TOGETHER[kind]))


def test_attention_without_a_mask_is_refused(processor, model):
    """One that is registered alone, for which transformers makes no mask; found again after a change."""
    inputs = inputs_of(processor, ["a text of some length", "short"])
    model(**inputs, pack_rows=True)
    AttentionInterface.register("maskless", sdpa_attention_forward)
    model.model.language_model.config._attn_implementation = "maskless"
    with pytest.raises(ValueError, match='attn_implementation="maskless": they see each other'):
        model(**inputs, pack_rows=True)
