"""Checkpoints of a run: which one it goes on from, and that it goes on exactly, or says why it cannot."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from training.loading import load_whole, refuse_damaged_weights, refuse_other_weights
from training.run_summary import RunSummary

logger = logging.getLogger(__name__)

STATE = "trainer_state.json"
ADAPTER = "adapter_model.safetensors"
FINAL_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", ADAPTER)
# What the files of a checkpoint that `torch.load` reads hold, among other things
CONTENTS = {
    "optimizer.pt": {"state", "param_groups"},
    "optimizer.bin": {"state", "param_groups"},
    "scheduler.pt": {"last_epoch"},
    "scaler.pt": {"scale"},
    "rng_state": {"python", "numpy", "cpu"},
    "adversarial.pt": {"loss", "optimizer"},
}


def last_checkpoint(args: TrainingArguments) -> str | None:
    """The newest complete checkpoint in the output folder, from which training goes on exactly; or the one that
    `args.resume_from_checkpoint` names.

    The last file of a checkpoint that is written, the trainer's state, tells that it is complete: a run that was killed
    before leaves none, or one that cannot be read.

    Raises:
        ValueError: `args.resume_from_checkpoint` is none.
    """
    if args.resume_from_checkpoint and args.resume_from_checkpoint not in (True, "True", "true"):
        if step_of(Path(args.resume_from_checkpoint)) is None:
            raise ValueError(
                f"resume_from_checkpoint={args.resume_from_checkpoint} has no {STATE} that can be read. Name a "
                "checkpoint, or leave it out to go on from the last one in output_dir."
            )
        return str(args.resume_from_checkpoint)
    folders = [path for path in Path(args.output_dir).glob("checkpoint-*") if re.fullmatch(r"\d+", path.name[11:])]
    for folder in sorted(folders, key=lambda folder: int(folder.name[11:]), reverse=True):
        if step_of(folder) == int(folder.name[11:]):
            logger.info("Going on from %s", folder)
            return str(folder)
        if (folder / STATE).exists():
            logger.warning("%s is incomplete: the run was killed while it was written. It is left out.", folder)
    return None


def step_of(folder: Path) -> int | None:
    """The steps that a run had taken when it wrote its state into a folder; `None` where none can be read."""
    try:
        step = json.loads((folder / STATE).read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None


def refuse_damaged_files(checkpoint: Path) -> None:
    """Raises a `ValueError` that names the first file of a checkpoint that cannot be read, or is of another kind.

    Only the structure of files is read: it lies at their ends, and tensors are as large as the model.
    """
    refuse_damaged_weights(checkpoint)
    for file in sorted(checkpoint.iterdir()):
        name = "rng_state" if file.name.startswith("rng_state") else file.name
        if name in CONTENTS and file.is_file():
            _refuse_damaged_state(file, CONTENTS[name])


@contextmanager
def told_of(checkpoint: str | os.PathLike | None, what: str) -> Iterator[None]:
    """Within it, errors of states that do not fit become a `ValueError` that names the checkpoint and what to do."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{checkpoint}: {what}. It was written with another model, other parts to train, or is damaged: give the "
            f"command that wrote it, or delete the checkpoint. ({type(error).__name__}: {error})"
        ) from error


class ResumingTrainerMixin:
    """Mixed into a `Trainer`: goes on exactly, or says which file of the checkpoint is missing or damaged.

    `train` refuses a checkpoint without the state of the optimizer, the schedule or the random numbers, unless
    `args.resume_from_checkpoint` names it: whoever names it is warned, and has it. After the last step nothing is
    trained, however often the command is given; transformers asks only after a step whether it was the last.

    `save_state` leaves a summary of what the run took, too, which its checkpoints carry on. `made_from`: the models
    that it begins with.
    """

    made_from: Sequence[str | None] = ()
    summary: RunSummary | None = None

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        if resume_from_checkpoint is None:
            self.summary = RunSummary(self.args, made_from=self.made_from)
            return super().train(**kwargs)
        self.inspect_checkpoint(Path(resume_from_checkpoint))
        step = step_of(Path(resume_from_checkpoint))
        self.summary = RunSummary(self.args, resume_from_checkpoint, step, self.made_from)
        output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if self.was_finished(resume_from_checkpoint):
            logger.info(
                "This run is finished: %s is its last step, %d. Nothing was trained. For more steps raise max_steps or "
                "num_train_epochs; for a new run choose another output_dir.", resume_from_checkpoint,
                self.state.global_step,
            )  # fmt: skip
        return output

    def get_batch_samples(self, *args, **kwargs) -> tuple:
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        for batch in batches:
            self.summary.count(batch)
        return batches, num_items

    def save_state(self) -> None:
        if self.summary is not None and self.args.should_save:
            self.summary.write(self.args.output_dir, self.state.global_step)
        super().save_state()

    def was_finished(self, checkpoint: str | None) -> bool:
        """Whether the checkpoint that `train` went on from was of the last step."""
        return checkpoint is not None and self.state.global_step == step_of(Path(checkpoint))

    def has_final_model(self) -> bool:
        """Whether the output folder holds the model of the last step: the run's state is written after it."""
        folder = Path(self.args.output_dir)
        found = step_of(folder) == self.state.global_step and any((folder / name).exists() for name in FINAL_WEIGHTS)
        self.accelerator.wait_for_everyone()  # before one process writes what another still looks for
        return found

    def inspect_checkpoint(self, checkpoint: Path) -> None:
        """Raises a `ValueError` unless the checkpoint's files are there and can be read."""
        if not checkpoint.is_dir():
            raise ValueError(f"There is no checkpoint {checkpoint}.")
        files = self.state_files()
        missing = [name for name in files if not any(checkpoint.glob(name))]
        if missing and self.args.resume_from_checkpoint:
            logger.warning("%s lacks %s: fresh ones take their place, and the run is another.", checkpoint, missing)
        elif missing:
            found = sorted(path.name for path in checkpoint.glob("rng_state*.pth"))
            why = f" It has {', '.join(found)}: the number of processes was another." if found else ""
            if len(missing) == len(files):
                why = " It was written with save_only_model, or cleaned: it holds the model alone."
            raise ValueError(
                f"{checkpoint} lacks {', '.join(missing)}, and a run cannot go on from it exactly.{why} Put back what "
                "is missing, or delete the checkpoint to go on from the one before; with --resume_from_checkpoint "
                f"{checkpoint} the run goes on with fresh ones, not exactly."
            )
        refuse_damaged_files(checkpoint)

    def state_files(self) -> list[str]:
        """Patterns of what transformers' Trainer leaves beside the model, under each engine, for this process."""
        rank = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        files = [f"rng_state{rank}.pth"]
        if self.is_deepspeed_enabled:
            return ["global_step*", *files]  # a folder of DeepSpeed's, with optimizer and schedule
        if getattr(self.accelerator, "scaler", None) is not None:
            files.append("scaler.pt")
        return ["optimizer*" if self.is_fsdp_enabled else "optimizer.pt", "scheduler.pt", *files]

    def _run_epoch(self, *args, **kwargs) -> None:
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def _save_checkpoint(self, model, trial) -> None:
        if self.args.should_save:  # before the rest, whose last file tells that all are there
            folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            self._add_to_checkpoint(folder)
        super()._save_checkpoint(model, trial)

    def _add_to_checkpoint(self, folder: Path) -> None:
        """Writes what transformers does not know of, on the process that saves."""
        self.summary.write(folder, self.state.global_step)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Each process has its own; the trainer's state, which one writes next, tells that all files are there
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        model = self.model if model is None else model
        adapter = Path(resume_from_checkpoint, ADAPTER)
        if isinstance(model, PeftModel) and adapter.is_file():
            with safe_open(adapter, framework="pt") as file:
                found = set(file.keys())
            expected = set(get_peft_model_state_dict(model))
            refuse_other_weights(str(adapter), "adapter of this run", expected - found, found - expected)
        in_parts = self.is_fsdp_enabled or self.is_deepspeed_enabled
        with told_of(resume_from_checkpoint, "its weights do not fit the model"):
            if in_parts or not isinstance(model, PreTrainedModel):
                super()._load_from_checkpoint(resume_from_checkpoint, model)
            else:  # encoders such as DINOv2 are written by the names they once had, which from_pretrained alone knows
                model.load_state_dict(load_whole(type(model).from_pretrained, resume_from_checkpoint).state_dict())

    def _issue_warnings_after_load(self, load_result) -> None:
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or ())
        missing = set(load_result.missing_keys) - tied
        refuse_other_weights("The checkpoint", type(self.model).__name__, missing, load_result.unexpected_keys)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with told_of(checkpoint, "the state of its optimizer or schedule does not fit this run"):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.is_deepspeed_enabled:
            return
        for parameter, state in self.optimizer.state.items():
            average = state.get("exp_avg")
            if average is not None and average.shape != parameter.shape:
                raise ValueError(
                    f"{checkpoint}: optimizer.pt has a state of shape {tuple(average.shape)} for weights of shape "
                    f"{tuple(parameter.shape)}. It is of another run: delete the checkpoint."
                )


def train_on(trainer: Trainer, checkpoint: str | None, made_from: Sequence[str | None] = ()) -> bool:
    """Trains, from the checkpoint where there is one. Returns whether the final model is still to be written.

    Args:
        made_from: folders or Hub ids of what the model began with, if any; see `RunSummary`.
    """
    trainer.made_from = made_from
    if trainer.args.run_name is None:  # by which trackers know a run that goes on, or is evaluated after its end
        trainer.args.run_name = Path(trainer.args.output_dir).name
    with _lines_above_the_bar():
        trainer.train(resume_from_checkpoint=checkpoint)
    if not trainer.was_finished(checkpoint):
        return True
    if trainer.has_final_model():
        return False
    logger.info("%s lacks the final model: it is written now.", trainer.args.output_dir)
    return True


@contextmanager
def _lines_above_the_bar() -> Iterator[None]:
    """Within it, lines that loggers write to the console, and warnings, stand above the progress bar and not in it."""
    on_console = [logger for logger in _all_loggers() if any(map(_writes_to_console, logger.handlers))]
    if not logging.root.handlers:  # a handler of last resort would write what no other takes
        on_console.append(logging.root)
    logging.captureWarnings(True)
    try:
        with logging_redirect_tqdm(on_console):
            yield
    finally:
        logging.captureWarnings(False)


def _all_loggers() -> list[logging.Logger]:
    """Libraries such as transformers have a handler of their own."""
    named = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in named if isinstance(logger, logging.Logger))]


def _writes_to_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)


def _refuse_damaged_state(file: Path, contents: set[str]) -> None:
    remedy = "Delete the checkpoint to go on from the one before, or put the file back."
    try:
        with safe_globals():
            state = torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # bytes that are no file of PyTorch's make its reader raise almost anything
        raise ValueError(f"{file} is damaged ({error or type(error).__name__}). {remedy}") from error
    if not isinstance(state, dict) or not contents <= state.keys():
        raise ValueError(f"{file} does not hold {', '.join(sorted(contents))}: it is of another kind. {remedy}")
