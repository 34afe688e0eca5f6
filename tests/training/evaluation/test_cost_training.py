"""What training costs, on tiny recipes: equal losses, padding, the table and the file, and what is refused."""

import json
from dataclasses import asdict

import pytest
import torch

from tests.setokim_testing import inputs_of, tiny_setokim
from tests.training.test_cache_patches import TRAINABLE
from tests.training.test_cache_patches import recipe as setok_recipe
from training.evaluation.cost_training import (
    CACHED,
    OPERATIONS,
    PACKED,
    PIXELS,
    BenchmarkArguments,
    Stopwatch,
    format_results,
    kind_of,
    load_stage,
    main,
    measure,
    refuse_other_losses,
)

ONE_ROUND = BenchmarkArguments(steps=1, repeats=1)


def test_setokim_trains_the_same_from_pixels_from_the_cache_and_packed(setokim_recipe, tmp_path, capsys):
    path, output = setokim_recipe("finetune", tmp_path), tmp_path / "results.json"
    main([str(path), "--steps", "1", "--repeats", "2", "--rows", "3", "--output", str(output), "--save_steps", "5"])
    written = json.loads(output.read_text())
    assert written["arguments"] == {
        **asdict(BenchmarkArguments(steps=1, repeats=2, rows=3, output=str(output))),
        "recipe": str(path), "values": ["--save_steps", "5"],
    }  # fmt: skip
    results, variants = written["results"], written["results"]["variants"]
    assert results["kind"] == "finetuning" and results["rows_per_step"] == 3 and results["cached_rows"] == 9
    assert list(variants) == [PIXELS, CACHED, PACKED]
    expected = variants[PIXELS]["first_losses_float32"]
    assert expected.keys() == {"loss", "text_loss", "diffusion_loss", "mask_loss"} and expected["loss"] > 0
    for values in variants.values():
        assert values["first_losses_float32"] == pytest.approx(expected, rel=1e-4)
        assert values["rows_per_second_least"] <= values["rows_per_second"] <= values["rows_per_second_most"]
        assert 0 < values["seconds_waiting_per_step"] < values["seconds_per_step"]
        assert values["ratio_to_pixels"] == values["rows_per_second"] / variants[PIXELS]["rows_per_second"]
    assert variants[PIXELS]["padding"] == variants[CACHED]["padding"] > variants[PACKED]["padding"] >= 0
    heading, columns, *lines = capsys.readouterr().out.splitlines()[-6:]
    assert heading.startswith("recipe.yaml, finetuning: 3 rows a step, 2 rounds of 1 steps") and "padding" in columns
    assert [line[:16].strip() for line in lines[:3]] == list(variants)
    assert f"{variants[PACKED]['padding']:.1%}" in lines[2] and lines[3].startswith(
        "Writing 9 rows into the cache took"
    )


def test_stage_0_trains_the_same_from_the_cache(tmp_path):
    results = measure(BenchmarkArguments(steps=1, repeats=1, profile=True), [str(setok_recipe(tmp_path, None))])
    assert results["kind"] == "stage 0" and list(results["variants"]) == [PIXELS, CACHED]
    assert results["cached_rows"] == 12 and results["milliseconds_to_cache_a_row"] > 0
    pixels, cached = (results["variants"][variant] for variant in (PIXELS, CACHED))
    assert cached["first_losses_float32"] == pytest.approx(pixels["first_losses_float32"], rel=2e-3)
    assert pixels["padding"] is cached["padding"] is None
    for values in (pixels, cached):
        assert values["operations"].keys() == OPERATIONS.keys()
        assert sum(values["operations"].values()) == pytest.approx(1)
        assert values["operations"]["optimizer and clipping"] > 0
        assert values["operations"]["matrix products and convolutions"] > 0
    table = format_results(results)
    assert all(table.count(kind) == 1 for kind in OPERATIONS)


@torch.no_grad()
def test_padding_is_counted_in_what_the_language_model_reads(processor):
    model = tiny_setokim(processor).train()
    inputs = inputs_of(processor, ["no picture", "one [Img]<image>[/Img] here", "a longer text without any picture"])
    added = int(model.model.setok.eval()(inputs["pixel_values"]).num_tokens) - 1  # tokens in place of one <image>
    lengths = inputs["attention_mask"].sum(1) + torch.tensor([0, added, 0])
    tokens, longest, (rows, width) = int(lengths.sum()), int(lengths.max()), inputs["input_ids"].shape
    assert added > 0 and tokens - longest <= longest  # packed, the two short rows share a sequence
    padded = rows * (width + added)  # an image also pushes the padding behind its row along
    model(**inputs, use_cache=False, pack_rows=True)  # the first time packing is tried out, which is not counted
    for pack_rows, counted in ((False, (padded, tokens)), (True, (2 * longest, 0))):
        watch = Stopwatch()
        hook = model.model.language_model.register_forward_pre_hook(watch.count, with_kwargs=True)
        model(**inputs, use_cache=False, pack_rows=pack_rows)
        assert watch.places == 0  # of the first step
        watch.losses = {"loss": 1.0}
        model(**inputs, use_cache=False, pack_rows=pack_rows)
        hook.remove()
        assert (watch.places, watch.tokens) == counted


def test_a_variant_that_trains_something_else_is_not_timed():
    losses = {PIXELS: {"loss": 2.0, "text_loss": 1.0}, CACHED: {"loss": 2.0001, "text_loss": 1.0}}
    refuse_other_losses(losses, 1e-4)
    for found in ({"loss": 2.001, "text_loss": 1.0}, {"loss": 2.0}, {"loss": float("nan"), "text_loss": 1.0}):
        with pytest.raises(ValueError, match='"cache, packed" the first step has other losses than with "pixels, '):
            refuse_other_losses(losses | {PACKED: found}, 1e-4)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::addmm", "matrix products and convolutions"),
        ("aten::mkldnn_convolution", "matrix products and convolutions"),
        ("aten::_softmax_backward_data", "attention"),
        ("aten::bmm", "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_log_softmax", "elementwise and all other operations"),
        ("aten::gelu", "elementwise and all other operations"),
        ("aten::_to_copy", "copies between types and layouts"),
        ("aten::_foreach_norm", "optimizer and clipping"),
        ("autograd::engine::evaluate_function: MulBackward0", "autograd and Python between operations"),
    ],
)
def test_kinds_of_operations(operation, kind):
    assert kind_of(operation) == kind


def test_a_recipe_that_trains_what_is_cached_is_refused(setokim_recipe, tmp_path):
    path = setok_recipe(tmp_path, None, trainable=[*TRAINABLE, "setok.vision_encoder"])
    with pytest.raises(ValueError, match="This recipe trains the vision encoder, so there is no cache to compare with"):
        measure(ONE_ROUND, [str(path)])
    path = setokim_recipe("pretrain", tmp_path, trainable=["model.setok", "diffusion_head"], train_examples=16)
    with pytest.raises(ValueError, match="token_cache holds what SeTok gave before training, and here it is trained"):
        measure(ONE_ROUND, [str(path)])
    with pytest.raises(SystemExit, match="Error: .*here it is trained"):
        main([str(path), "--steps", "1"])


def test_too_few_rows_are_refused(setokim_recipe, tmp_path):
    path = setokim_recipe("finetune", tmp_path, train_examples=15)
    with pytest.raises(ValueError, match="2 timed steps take 16 rows, .* but the recipe has 15: lower --steps"):
        load_stage([str(path)], steps=2)
    assert len(load_stage([str(path), "--train_examples", "16"], steps=2).rows) == 16
