"""The losses of Setokim by hand, their weights, and that every part takes part in every step."""

import pytest
import torch

from modeling_setok import visual_tokens
from modeling_setok.mask_decoder import mask_losses
from tests.setokim_testing import (
    BATCHES,
    IMAGE,
    MASK,
    STAGE,
    TEXTS,
    embeddings_of,
    inputs_of,
    pictures,
    targets_of,
    training_step,
)


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

    def loss(tokens, conditions, sources):
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


def test_tokens_of_short_answers_count_for_more_by_their_square_root(processor, make_model):
    model = make_model()
    answers = ((0, 1, 2), (0, 5, 9), (0, 11, 12), (1, 8, 12))  # of which row, from which target to which
    inputs = processor.tokenizer(["a b c d e f g h i j k l m n"] * 2, return_tensors="pt")
    labels = torch.full_like(inputs["input_ids"], -100)
    for row, first, last in answers:
        labels[row, first + 1 : last + 1] = inputs["input_ids"][row, first + 1 : last + 1]
    with torch.no_grad():
        logits = model(**inputs).logits
        losses = torch.nn.functional.cross_entropy(logits[:, :-1].mT, inputs["input_ids"][:, 1:], reduction="none")
        of_answers = [losses[row, first:last] for row, first, last in answers]
        by_token = model(**inputs, labels=labels).text_loss
        model.config.text_loss_reduction = "square"
        by_square = model(**inputs, labels=labels).text_loss
    torch.testing.assert_close(by_token, torch.cat(of_answers).mean(), rtol=0, atol=1e-5)
    roots = [len(tokens) ** 0.5 for tokens in of_answers]
    expected = sum(root * tokens.mean() for root, tokens in zip(roots, of_answers, strict=True)) / sum(roots)
    torch.testing.assert_close(by_square, expected, rtol=0, atol=1e-5)
    assert abs(float(by_square - by_token)) > 1e-3


def test_without_targets_there_is_no_loss(processor, model):
    inputs = inputs_of(processor, TEXTS)
    outputs = model(**inputs)
    assert outputs.loss is outputs.text_loss is outputs.diffusion_loss is outputs.mask_loss is None


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


def test_an_image_to_learn_cannot_come_first(processor, model):
    ids = torch.tensor([[processor.image_token_id, 5, 6, 7], [5, 6, 7, 8]])
    pixels = processor.image_processor(pictures(1))["pixel_values"]
    with pytest.raises(ValueError, match="cannot come first"):
        model(ids, pixel_values=pixels, labels=ids)


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


@pytest.mark.parametrize("kind", ["longer", "shorter", "rows", "flat", "floats"])
def test_labels_of_another_shape_are_named(processor, model, kind):
    inputs = inputs_of(processor, [f"{IMAGE} a dog"])
    labels = targets_of(inputs)
    labels = {
        "longer": torch.cat([labels, labels], 1), "shorter": labels[:, 1:], "rows": labels.repeat(2, 1),
        "flat": labels[0], "floats": labels.float(),
    }[kind]  # fmt: skip
    with pytest.raises(ValueError, match=r"labels .* must be integers of the shape of the text, \(batch, length\)"):
        model(**inputs, labels=labels)


@pytest.mark.parametrize("label", [10**6, -1, -101])
def test_labels_out_of_range_are_named(processor, model, label):
    inputs = inputs_of(processor, [f"{IMAGE} a dog"])
    labels = targets_of(inputs)
    labels[0, -1] = label
    with pytest.raises(ValueError, match=f"labels must be ids of the vocabulary, 0 to .*got .*{label}"):
        model(**inputs, labels=labels)


def test_masks_of_another_kind_are_named(processor, model):
    inputs = inputs_of(processor, [f"{IMAGE} dog: {MASK}"])
    labels, ones = targets_of(inputs), torch.ones(1, 24, 24)
    for masks in (255 * ones, -ones, ones * torch.nan):
        with pytest.raises(ValueError, match=r"masks must lie in \[0, 1\]: divide masks of 0 and 255 by 255"):
            model(**inputs, masks=masks, labels=labels)
    for masks in (ones[None], ones[0], ones[:, :, :0]):
        with pytest.raises(ValueError, match=r"masks must be \(number of masks, height, width\)"):
            model(**inputs, masks=masks, labels=labels)
