"""Both stages' trainers: the losses are the model's own, whatever is accumulated, and reach what they should."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from tests.setokim_testing import tiny_setokim
from training.data import FEATURES
from training.data.setokim_collator import SetokimCollator
from training.finetune_setokim import SetokimSFTConfig, SetokimSFTTrainer, lora_config
from training.freezing import train_only
from training.trainer_setokim import (
    LOSS_PARTS,
    VISUAL_HEADS,
    SetokimTrainer,
    SetokimTrainingArguments,
    is_language_parameter,
)

STAGES = {
    "pretrain": (SetokimTrainer, SetokimTrainingArguments),
    "finetune": (SetokimSFTTrainer, SetokimSFTConfig),
    "lora": (SetokimSFTTrainer, SetokimSFTConfig),
}
stages = pytest.mark.parametrize("stage", STAGES)
QUIET = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "bf16": False}


@pytest.fixture
def make_trainer(processor, rows, tmp_path):
    """Builds a trainer of a stage that goes through the rows in order, two at a time."""

    def make(stage: str, rows=rows, model=None, eval_dataset=None, **arguments):
        model = tiny_setokim(processor, diffusion_loss_weight=0.5) if model is None else model
        trainer_class, arguments_class = STAGES[stage]
        options = {}
        if stage == "lora":
            options["peft_config"] = lora_config({"r": 4, "init_lora_weights": False})
        else:
            train_only(model, ("model.language_model", "lm_head", *VISUAL_HEADS))
        settings = {
            "output_dir": str(tmp_path), "per_device_train_batch_size": 2, "max_steps": 1, "learning_rate": 0.01,
            "logging_steps": 1, "train_sampling_strategy": "sequential", "lr_scheduler_type": "constant",
        }  # fmt: skip
        return trainer_class(
            model=model,
            args=arguments_class(**QUIET | settings | arguments),
            data_collator=SetokimCollator(processor),
            train_dataset=rows,
            eval_dataset=eval_dataset,
            processing_class=processor,
            **options,
        )

    return make


class Recorder(TrainerCallback):
    """Keeps the batches of a step, what the random numbers started from in each, and the step's gradients."""

    def __init__(self, trainer):
        self.batches, self.gradients = [], {}
        compute_loss = trainer.compute_loss

        def record(model, inputs, **kwargs):
            self.batches.append((torch.get_rng_state(), {name: value.clone() for name, value in inputs.items()}))
            return compute_loss(model, inputs, **kwargs)

        trainer.compute_loss = record
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = gradients(model)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@stages
def test_a_step_is_the_mean_of_its_batches_in_every_part_of_the_loss(make_trainer, stage):
    """Two accumulated batches: caption and text to image, then referring and text only."""
    trainer = make_trainer(stage, gradient_accumulation_steps=2, max_grad_norm=0.0)
    recorder, model = Recorder(trainer), trainer.model
    start = weights(model)
    trainer.train()
    model.load_state_dict(start)
    model.zero_grad()
    found = {name: [] for name in ("loss", *LOSS_PARTS)}
    for state, batch in recorder.batches:
        torch.set_rng_state(state)
        outputs = model(**batch, use_cache=False)
        (outputs.loss / 2).backward()
        for name, values in found.items():
            if (part := getattr(outputs, name)) is not None:
                values.append(part.item())

    assert {name: len(values) for name, values in found.items()} == {
        "loss": 2, "text_loss": 2, "diffusion_loss": 2, "mask_loss": 1,
    }  # fmt: skip
    log = trainer.state.log_history[0]
    for name, values in found.items():
        assert log[name] == pytest.approx(sum(values) / len(values), rel=1e-5)
    text, diffusion, mask = (sum(found[name]) / 2 for name in LOSS_PARTS)
    assert log["loss"] == pytest.approx(text + 0.5 * diffusion + mask, rel=1e-5)
    expected = gradients(model)
    assert set(expected) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(recorder.gradients) == set(expected)
    for name, gradient in recorder.gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


@stages
def test_what_is_trained_and_nothing_else_changes(make_trainer, stage):
    trainer = make_trainer(stage, gradient_accumulation_steps=2)
    base = trainer.accelerator.unwrap_model(trainer.model)
    base = base.get_base_model() if stage == "lora" else base
    before = weights(trainer.model)
    trainer.train()
    found = changed(trainer.model, before)
    assert found <= {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    for part in ("multi_modal_projector", "language_model", "diffusion_head", "mask_decoder"):
        assert any(part in name.split(".") for name in found), f"{part} was not trained"
    if stage == "lora":
        assert all("lora_" in name or "modules_to_save" in name for name in found)
    else:
        assert "lm_head.weight" in found
    assert base.model.language_model.training and base.mask_decoder.training
    assert not base.model.setok.training and not base.detokenizer.training


@stages
def test_the_visual_learning_rate_is_that_of_everything_outside_the_language_model(make_trainer, stage):
    plain = make_trainer(stage, weight_decay=0.1).create_optimizer()
    trainer = make_trainer(stage, weight_decay=0.1, visual_learning_rate=0.5)
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    rates, decays = {}, {}
    for group in trainer.create_optimizer().param_groups:
        for parameter in group["params"]:
            assert names[parameter] not in rates
            rates[names[parameter]], decays[names[parameter]] = group["lr"], group["weight_decay"]
    assert set(rates) == {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    heads = ("multi_modal_projector", "diffusion_head", "mask_decoder")
    for name, rate in rates.items():
        assert rate == (0.5 if any(head in name for head in heads) else 0.01)
    assert set(rates.values()) == {0.5, 0.01}
    decayed = sum(
        parameter.numel() for group in plain.param_groups if group["weight_decay"] for parameter in group["params"]
    )
    assert sum(p.numel() for p, name in names.items() if decays.get(name)) == decayed > 0
    assert not decays[next(name for name in decays if name.endswith("linear_out.bias"))]


def test_a_language_learning_rate_of_zero_leaves_the_language_model_as_it_was(make_trainer):
    trainer = make_trainer("pretrain", learning_rate=0.0, visual_learning_rate=0.01, weight_decay=0.1, max_steps=2)
    before = weights(trainer.model)
    trainer.train()
    found = changed(trainer.model, before)
    assert {name.split(".")[0] for name in found} == {"model", "diffusion_head", "mask_decoder"}
    assert not any(is_language_parameter(name) for name in found)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_evaluation_names_the_losses_of_each_set(make_trainer, rows, processor, stage):
    sets = {"caption": rows[0::4], "referring": rows[2::4]}
    trainer = make_trainer(stage, eval_dataset=sets, per_device_eval_batch_size=2)
    metrics = trainer.evaluate()
    parts = {name for name in metrics if name.endswith("_loss")}
    assert parts == {
        "eval_caption_loss", "eval_caption_text_loss",
        "eval_referring_loss", "eval_referring_text_loss", "eval_referring_diffusion_loss", "eval_referring_mask_loss",
    }  # fmt: skip
    batch = SetokimCollator(processor)(sets["referring"])
    with torch.no_grad():
        outputs = trainer.model.eval()(**batch)
    assert metrics["eval_referring_text_loss"] == pytest.approx(outputs.text_loss.item(), rel=1e-5)
    assert metrics["eval_referring_mask_loss"] == pytest.approx(outputs.mask_loss.item(), rel=1e-5)
    assert metrics["eval_caption_text_loss"] == pytest.approx(metrics["eval_caption_loss"], rel=1e-5)


@pytest.mark.parametrize(("stage", "bf16"), [("pretrain", True), ("finetune", False), ("lora", True)])
def test_sample_rows_are_shown_and_change_nothing(make_trainer, processor, rows, tmp_path, stage, bf16):
    """Of two evaluations and one after the training, beside a run without samples."""
    sets = {name: rows[start::4] for start, name in enumerate(("caption", "drawing", "outline", "text"))}
    found = []
    for sample_rows in (0, 4):
        torch.manual_seed(0)
        folder = tmp_path / str(sample_rows)
        trainer = make_trainer(
            stage, model=tiny_setokim(processor), eval_dataset=sets, output_dir=str(folder), report_to="tensorboard",
            sample_rows=sample_rows, max_steps=2, eval_strategy="steps", eval_steps=1, bf16=bf16,
        )  # fmt: skip
        torch.manual_seed(1)
        trainer.train()
        trainer.evaluate({"own": rows[:1]})  # other rows than those to evaluate on
        history = [
            {name: value for name, value in logs.items() if "loss" in name} for logs in trainer.state.log_history
        ]
        trainer.model.train()
        trainer.evaluate()
        found.append((history, [module.training for module in trainer.model.modules()]))
    assert found[0] == found[1]
    assert not (tmp_path / "0" / "samples").exists()
    names = {f"step-{step:06d}.{suffix}" for step in (1, 2) for suffix in ("md", "png")}
    assert {path.name for path in (tmp_path / "4" / "samples").iterdir()} == names
    events = events_in(tmp_path / "4")
    assert [picture.step for picture in events.Images("samples")] == [1, 2, 2]
    answers = events.Tensors("answers/text_summary")
    assert [answer.step for answer in answers] == [1, 2, 2]
    shown = answers[-1].tensor_proto.string_val[0].decode()
    assert shown == (tmp_path / "4" / "samples" / "step-000002.md").read_text(encoding="utf-8")
    assert [line.split(" | ")[0] for line in shown.splitlines()[2:]] == ["| caption", "| text"]
    assert rows[0]["messages"][1]["content"][0]["text"] in shown
    without = events_in(tmp_path / "0").Tags()
    assert without["images"] == [] and "answers/text_summary" not in without["tensors"]


def events_in(folder: Path) -> EventAccumulator:
    (events,) = (folder / "runs").iterdir()
    return EventAccumulator(str(events)).Reload()


@pytest.mark.parametrize("without", [{"report_to": "none"}, {"eval_dataset": None}, {"sample_rows": 0}])
def test_without_a_tracker_or_rows_to_evaluate_on_nothing_is_answered(make_trainer, rows, monkeypatch, without):
    monkeypatch.setattr("training.trainer_setokim.choose_sample_rows", lambda *args: pytest.fail("rows were read"))
    make_trainer("pretrain", **{"eval_dataset": {"own": rows}, "report_to": "tensorboard"} | without)


@pytest.mark.parametrize("stage", ["finetune", "lora"])
def test_gradient_checkpointing_changes_no_gradient(make_trainer, processor, stage):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = tiny_setokim(processor, diffusion_loss_weight=0.0)
        trainer = make_trainer(stage, model=model, activation_checkpointing=checkpointing, max_grad_norm=0.0)
        recorder = Recorder(trainer)
        trainer.train()
        assert trainer.accelerator.unwrap_model(trainer.model).is_gradient_checkpointing == checkpointing
        found.append(recorder.gradients)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)


@stages
def test_packed_rows_train_as_padded_ones(make_trainer, processor, rows, stage):
    """A caption, a picture to paint, a mask and a text, over two batches a step: every logged loss, every gradient, and
    an evaluation."""
    found = []
    for pack_rows in (False, True):
        torch.manual_seed(0)
        trainer = make_trainer(
            stage, model=tiny_setokim(processor), eval_dataset={"own": rows[:4]}, pack_rows=pack_rows,
            per_device_train_batch_size=4, gradient_accumulation_steps=2, max_grad_norm=0.0,
        )  # fmt: skip
        recorder, sequences = Recorder(trainer), []
        language_model = trainer.accelerator.unwrap_model(trainer.model).get_decoder()
        language_model.register_forward_pre_hook(
            lambda module, args, kwargs, seen=sequences: seen.append(kwargs["inputs_embeds"].shape[0]), with_kwargs=True
        )
        torch.manual_seed(1)
        trainer.train()
        assert (min(sequences) < 4) == pack_rows
        torch.manual_seed(1)
        logs = trainer.state.log_history[0] | trainer.evaluate()
        found.append(({name: value for name, value in logs.items() if "loss" in name}, recorder.gradients))
    (losses, padded), (packed_losses, packed) = found
    assert {*LOSS_PARTS, *(f"eval_own_{part}" for part in LOSS_PARTS)} <= losses.keys()
    assert packed_losses == pytest.approx(losses, rel=1e-4, abs=1e-4)
    assert padded.keys() == packed.keys()
    for name, gradient in padded.items():
        torch.testing.assert_close(packed[name], gradient, rtol=1e-3, atol=1e-4)


def test_trls_own_trainer_and_collator_train_the_text(processor, rows, tmp_path):
    model = tiny_setokim(processor)
    data = Dataset.from_list([row for row in rows if row["task"] in ("caption", "text_to_image")], features=FEATURES)
    settings = {"output_dir": str(tmp_path), "max_steps": 5, "learning_rate": 0.01, "logging_steps": 1}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**QUIET | settings, assistant_only_loss=True, max_length=None),
        train_dataset=data,
        processing_class=processor,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
