"""Flash attention, which knows no mask of keys, gives what eager attention gives, also where counts differ in a batch.

There is no GPU here: transformers' own code for flash attention runs over the two functions of `flash_attn` in plain
PyTorch, so that masks, packed sequences and lengths are treated as they are on a GPU.
"""

import copy

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
from transformers import PreTrainedModel

from modeling_setok import SetokModelOutput
from tests.modeling_setok.test_detokenizer import make_detokenizer
from tests.modeling_setok.test_mask_decoder import decoder, lively
from tests.modeling_setok.test_modeling_setok import gradients, images, tiny_model, training_step
from tests.setokim_testing import IMAGE, MASK, inputs_of, pictures, targets_of

FLASH = "flash_attention_2"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False) -> torch.Tensor:
    """(B, Q, heads, dim), keys and values (B, K, groups, dim); causal masks are aligned at the end."""
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], dim=2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * (softmax_scale or q.shape[-1] ** -0.5)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + scores.shape[-1] - scores.shape[-2])
        scores = scores.masked_fill(future, -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False
) -> torch.Tensor:
    """(Q, heads, dim), the queries of all segments one after the other; keys and values likewise."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32 and len(cu_seqlens_q) == len(cu_seqlens_k)
    lengths_q, lengths_k = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    assert max(lengths_q) <= max_seqlen_q and max(lengths_k) <= max_seqlen_k
    output = torch.zeros_like(q)  # of queries that no segment holds; of others without keys
    parts = zip(q.split(lengths_q), k.split(lengths_k), v.split(lengths_k), strict=True)
    done = [flash_attn_func(*(x[None] for x in part), softmax_scale=softmax_scale, causal=causal)[0] for part in parts]
    return output.index_copy(0, torch.arange(sum(lengths_q)), torch.cat(done))


@pytest.fixture
def use_flash(monkeypatch):
    """Gives `use_flash(model)`, after which all of it but encoders without attention runs on flash attention."""
    functions = (flash_attn_func, flash_attn_varlen_func, None, flash._pad_input, flash._unpad_input)
    monkeypatch.setattr(flash, "_lazy_imports", lambda *args, **kwargs: functions)
    monkeypatch.setattr(flash, "_loaded_implementation", None)

    def use(model: PreTrainedModel) -> None:
        for part in model.modules():
            if isinstance(part, PreTrainedModel) and part._supports_flash_attn:
                part.config._attn_implementation_internal = FLASH

    return use


def eager_and_flash(model: PreTrainedModel, use_flash) -> tuple[PreTrainedModel, PreTrainedModel]:
    eager, fast = copy.deepcopy(model), copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    use_flash(fast)
    assert fast.config._attn_implementation == FLASH and eager.config._attn_implementation == "eager"
    return eager, fast


def assert_different_counts(outputs: SetokModelOutput) -> None:
    assert len(set(outputs.num_tokens.tolist())) > 1


def test_detokenizer(use_flash):
    eager, fast = eager_and_flash(make_detokenizer(), use_flash)
    token_mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    tokens = torch.randn(3, 5, 12) * token_mask[..., None]
    with torch.no_grad():
        torch.testing.assert_close(fast(tokens, token_mask), eager(tokens, token_mask), **CLOSE)
        torch.testing.assert_close(fast(tokens), eager(tokens), **CLOSE)


@pytest.mark.parametrize("grid", [(3, 4), (1, 5)], ids=str)  # of the latter as many patches as prompts
def test_mask_decoder(use_flash, grid):
    eager, fast = eager_and_flash(lively(decoder()), use_flash)
    patches, tokens = torch.randn(3, grid[0] * grid[1], 12), torch.randn(3, 4, 6)
    present = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(fast(patches, grid, tokens, present), eager(patches, grid, tokens, present), **CLOSE)


@pytest.mark.parametrize("encoder", ["siglip", "resnet"])
def test_setok_and_its_gradients(use_flash, encoder):
    eager, fast = eager_and_flash(tiny_model(encoder, placement_weight=0.5).train(), use_flash)
    pixels = images()
    expected, got = training_step(eager, pixels), training_step(fast, pixels)
    assert_different_counts(expected.setok_output)
    assert torch.equal(got.setok_output.cluster_ids, expected.setok_output.cluster_ids)
    torch.testing.assert_close(got.setok_output.last_hidden_state, expected.setok_output.last_hidden_state, **CLOSE)
    torch.testing.assert_close(got.reconstruction, expected.reconstruction, **CLOSE)
    torch.testing.assert_close(got.loss, expected.loss, **CLOSE)
    grads = gradients(fast)
    for name, gradient in gradients(eager).items():
        scale = gradient.abs().max()
        assert (grads[name] - gradient).abs().max() <= 1e-4 + 1e-3 * scale, name


@pytest.mark.parametrize("pack_rows", [False, True])
def test_setokim(use_flash, processor, model, pack_rows):
    """A caption, a picture to paint and a mask in one batch, padded or packed in one sequence; then the tasks."""
    eager, fast = eager_and_flash(model, use_flash)
    inputs = inputs_of(processor, [f"{IMAGE} dog: {MASK}", f"{IMAGE} to {IMAGE}", f"{IMAGE} a cat"])
    masks = torch.zeros(1, 24, 24)
    masks[:, :9, :9] = 1
    outputs = []
    for one in (eager, fast):
        torch.manual_seed(1)  # of the diffusion loss
        with torch.no_grad():
            outputs.append(
                one(**inputs, masks=masks, labels=targets_of(inputs, start=4), pack_rows=pack_rows and one is fast)
            )
    expected, got = outputs
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(got.logits[real], expected.logits[real], **CLOSE)
    for name in ("text_loss", "diffusion_loss", "mask_loss", "mask_logits"):
        torch.testing.assert_close(got[name], expected[name], rtol=1e-3, atol=1e-3)
    shown = pictures(3)
    assert fast.caption(processor, shown, max_new_tokens=4) == eager.caption(processor, shown, max_new_tokens=4)
    tokens = eager.get_image_features(inputs["pixel_values"]).visual_tokens
    assert len({len(t) for t in tokens}) > 1
    with torch.no_grad():
        painted = [one.decode_images([one.model.denormalize_tokens(t) for t in tokens]) for one in (eager, fast)]
    torch.testing.assert_close(*painted, **CLOSE)
