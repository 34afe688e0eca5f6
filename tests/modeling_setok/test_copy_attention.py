"""Copying a visual token that stands before: which ones can be, and that generation sees what training saw."""

import pytest
import torch

from modeling_setok import SetokimDiffusionConfig
from modeling_setok.copy_attention import CopyAttention, CopySources
from modeling_setok.diffusion_head import DiffusionHead
from tests.setokim_testing import IMAGE, MASK, inputs_of, targets_of


def sources_of(images: list[torch.Tensor], visible: list[list[bool]]) -> CopySources:
    return CopySources.of_images(images, torch.tensor(visible, dtype=torch.bool))


def test_previous_tokens_are_those_of_the_same_image():
    first, second = torch.randn(3, 4), torch.randn(2, 4)
    sources = sources_of([first, second], [[True] * 5])
    zero = torch.zeros(1, 4)
    assert torch.equal(sources.tokens, torch.cat([first, second]))
    assert torch.equal(sources.previous, torch.cat([zero, first[:2], zero, second[:1]]))


def test_the_token_that_is_asked_for_is_added():
    """Of one-hot tokens the hidden state asks for that after token 2, by its key, and gets it whole."""
    copying, tokens = CopyAttention(copy_dim=4, token_dim=4, condition_dim=4), torch.eye(4)
    with torch.no_grad():
        copying.query.weight.copy_(200 * torch.eye(4))
        copying.query.bias.zero_()
        copying.key.weight.copy_(torch.cat([torch.zeros(4, 4), torch.eye(4)], dim=1))  # the token before
        copying.out.weight.copy_(torch.eye(4))
        hidden = torch.eye(4)[[2, 2, 0]]
        got = copying(hidden, sources_of([tokens], [[True] * 4, [True, True, True, False], [False] * 4]))
    torch.testing.assert_close(got[0], hidden[0] + tokens[3])
    nothing = 1 / 4  # three that are seen are as far from what is asked for as nothing at all
    torch.testing.assert_close(got[1], hidden[1] + nothing * tokens[:3].sum(0))
    assert torch.equal(got[2], hidden[2])


def test_nothing_to_copy():
    copying, hidden = CopyAttention(8, 3, 5), torch.randn(2, 5)
    assert torch.equal(copying(hidden, sources_of([torch.zeros(0, 3)], [[], []])), hidden)


def test_a_head_learns_to_say_tokens_again():
    """Which of six random tokens comes next is told by the one before it: without copying, no head could know them."""

    def loss_after_training(copy_dim: int) -> float:
        torch.manual_seed(0)
        config = SetokimDiffusionConfig(hidden_size=48, num_residual_blocks=2, timestep_shift=8.0, copy_dim=copy_dim)
        head = DiffusionHead(config, token_dim=8, condition_dim=16)
        torch.nn.init.zeros_(head.null_condition)
        optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
        told, losses = torch.randn(8, 16), []
        visible = (torch.arange(240) // 6 == torch.arange(240)[:, None] // 6) & (torch.arange(240) % 6 > 0)[:, None]
        for _ in range(150):
            tokens = torch.randn(40, 6, 8)
            before = torch.nn.functional.pad(tokens[:, :-1], (0, 0, 1, 0))
            sources = CopySources.of_images(list(tokens), visible)
            loss = head.loss(tokens.flatten(0, 1), before.flatten(0, 1) @ told, sources)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        return sum(losses[-10:]) / 10

    assert loss_after_training(copy_dim=16) < 0.75 < 0.95 < loss_after_training(copy_dim=0)


@pytest.mark.parametrize("pack_rows", [False, True])
def test_a_target_sees_what_stands_before_it_in_its_row(processor, make_model, monkeypatch, pack_rows):
    model, seen = make_model(), {}
    monkeypatch.setattr(
        model.diffusion_head, "loss", lambda tokens, conditions, sources: seen.update(sources._asdict()) or tokens.sum()
    )
    texts = [f"{IMAGE} to {IMAGE}", "no picture", f"paint: {IMAGE}", f"{IMAGE} a dog: {MASK}"]
    inputs = inputs_of(processor, texts, "right")
    labels = targets_of(inputs)
    labels[0, :4] = labels[3, :4] = -100  # their first image is context
    masks = torch.zeros(1, 24, 24)
    masks[:, :12] = 1
    with torch.no_grad():
        model(**inputs, masks=masks, labels=labels, pack_rows=pack_rows)
        features = model.model.get_placeholder_features(inputs["input_ids"], inputs["pixel_values"], masks)
    images = features.visual_tokens
    torch.testing.assert_close(seen["tokens"], torch.cat(images), rtol=0, atol=1e-5)
    before, expected = 0, []
    for tokens, is_target, first_of_row in zip(
        images, [False, True, True, False, True], [True, False, True, True, False], strict=True
    ):
        start = before if first_of_row else start  # noqa: F821
        for number in range(len(tokens) if is_target else 0):
            row = torch.zeros(sum(map(len, images)), dtype=torch.bool)
            row[start : before + number] = True
            expected.append(row)
        before += len(tokens)
    assert torch.equal(seen["visible"], torch.stack(expected))


def test_generation_copies_what_training_copied(processor, make_model, monkeypatch):
    """What the head gets for each generated token is what it gets when prompt and answer are fed as one text."""
    model = make_model()
    config, head, got = model.config, model.diffusion_head, []
    model.generation_config.sequence_bias = {(config.image_token_id,): 1.0, (config.image_end_token_id,): 0.0}
    forward = head.copy_attention.forward
    monkeypatch.setattr(head.copy_attention, "forward", lambda *args: got.append(forward(*args)) or got[-1])
    inputs = inputs_of(processor, [f"{IMAGE} and {IMAGE} mixed: [Img]"])
    output = model.generate(**inputs, max_new_tokens=9, return_dict_in_generate=True)
    (painted,) = output.visual_tokens[0]
    assert len(painted) > 2
    steps = head.config.num_inference_steps
    generated = torch.cat(got[::steps])
    assert len(generated) == len(painted)

    got.clear()
    ids = torch.cat([inputs["input_ids"], torch.tensor([[config.image_token_id, config.image_end_token_id]])], dim=1)
    given = model.get_image_features(inputs["pixel_values"]).visual_tokens
    visual = [*given, model.model.normalize_tokens(painted)]
    features = type(model.get_image_features(inputs["pixel_values"]))(
        pooler_output=[model.model.multi_modal_projector(tokens) for tokens in visual], visual_tokens=visual
    )
    labels = torch.full_like(ids, -100)
    labels[:, -2:] = ids[:, -2:]
    with torch.no_grad():
        model(ids, mm_encoder_outputs={"image": features}, labels=labels)
    (replayed,) = got
    torch.testing.assert_close(replayed[: len(painted)], generated, rtol=0, atol=1e-4)


def test_features_without_visual_tokens_are_refused(processor, make_model):
    model = make_model()
    inputs = inputs_of(processor, [f"{IMAGE} again: [Img]"])
    features = model.get_image_features(inputs.pop("pixel_values"))
    features["visual_tokens"] = None
    with pytest.raises(ValueError, match="This model copies visual tokens: mm_encoder_outputs need them"):
        model.generate(**inputs, mm_encoder_outputs={"image": features}, max_new_tokens=4)
