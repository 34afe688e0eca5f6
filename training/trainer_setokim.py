"""What the two stages of Setokim share: arguments, the model to start from, the loss by its parts, learning rates."""

import logging
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from modeling_setok import SetokimConfig, SetokimForConditionalGeneration
from processing import SetokimProcessor
from training.configs import update_config
from training.data.row_lengths import LongRows, RowLengths
from training.loading import load_whole
from training.recipe import check_ranges, check_training_arguments
from training.samples import report_samples
from training.samples_setokim import SampleRow, answer_sample_rows, choose_sample_rows
from training.streaming import StreamingTrainerMixin
from training.token_shares import TokenShares

logger = logging.getLogger(__name__)

LOSS_PARTS = ("text_loss", "diffusion_loss", "mask_loss")
LANGUAGE_PARTS = ("language_model", "lm_head")
VISUAL_HEADS = ("model.multi_modal_projector", "diffusion_head", "mask_decoder")  # what Setokim adds to its parts


@dataclass
class SetokimArguments:
    """Mixed into the arguments of a trainer."""

    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator reads the rows' columns itself"})
    prediction_loss_only: bool = field(default=True, metadata={"help": "evaluation measures the losses"})
    max_length: int | None = field(
        default=2048,
        metadata={"help": "longest row in tokens, an image counted as SeTok's max_tokens; longer ones: see long_rows"},
    )
    pack_rows: bool = field(
        default=False,
        metadata={"help": "the language model reads a batch's rows end to end, without padding; the same losses"},
    )
    visual_learning_rate: float | None = field(
        default=None, metadata={"help": "learning rate outside the language model; default: the same"}
    )

    sample_rows: int = field(
        default=4, metadata={"help": "validation rows answered at each evaluation, for report_to to show; 0: none"}
    )

    def __post_init__(self):
        super().__post_init__()
        check_training_arguments(self)
        check_ranges(self, max_length=1, visual_learning_rate=0, sample_rows=0)
        if getattr(self, "packing", False) or getattr(self, "padding_free", False):
            raise ValueError(
                "packing and padding_free are TRL's, for text alone; rows with images have pack_rows: true."
            )


@dataclass
class SetokimTrainingArguments(SetokimArguments, TrainingArguments):
    """Arguments of stage I beside those of `transformers.TrainingArguments`."""


class SetokimTrainerMixin(StreamingTrainerMixin):
    """Mixed into a `Trainer` of `SetokimForConditionalGeneration`, whose arguments are `SetokimArguments`.

    - The loss is the model's own, with all of its parts; each is logged by its name, as a mean over the batches that
      had it and over all processes. Evaluation on "caption" logs `eval_caption_text_loss` and so on.
    - So are the shares of vision in rows and in tokens, see `TokenShares`.
    - `args.visual_learning_rate`, where given, is that of all parameters outside the language model (Table 9).
    - At each evaluation the model answers `args.sample_rows` of the rows to evaluate on (see `answer_sample_rows`),
      where `args.report_to` names what shows them. They are also written to `output_dir/samples`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._shares = TokenShares(self.model, self.processing_class, self.args.device)
        # Of each part the sum and the number of batches since the last log
        self._loss_sums = {mode: torch.zeros(len(LOSS_PARTS), 2, device=self.args.device) for mode in ("train", "eval")}
        self._sample_rows = self._chosen_sample_rows()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if model.training:
            self._shares.note(inputs)
        # Not super(): a trainer between may compute the loss of the text alone, from the hidden states
        loss, outputs = Trainer.compute_loss(
            self,
            model,
            {**inputs, "use_cache": False, "pack_rows": self.args.pack_rows},
            return_outputs=True,
            num_items_in_batch=num_items_in_batch,
        )
        for sums, name in zip(self._loss_sums["train" if model.training else "eval"], LOSS_PARTS, strict=True):
            if (part := getattr(outputs, name)) is not None:
                sums += torch.stack([part.detach().float(), sums.new_ones(())])
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, eval_dataset=None, *args, **kwargs) -> dict[str, float]:
        metrics = super().evaluate(eval_dataset, *args, **kwargs)
        if eval_dataset is None and self._sample_rows:  # else it is one of several sets, or somebody else's
            if self.is_world_process_zero():
                self._answer_sample_rows()
            self.accelerator.wait_for_everyone()
        return metrics

    def _chosen_sample_rows(self) -> list[SampleRow]:
        if not self.args.report_to or not self.args.sample_rows or not self.eval_dataset:
            return []
        if self.is_fsdp_enabled or is_deepspeed_zero3_enabled():
            logger.warning("No sample rows are answered: no process has all weights. sample_rows: 0 asks for none.")
            return []
        sets = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"eval": self.eval_dataset}
        return choose_sample_rows(sets, self.args.sample_rows)

    def _answer_sample_rows(self) -> None:
        """On one process alone, with its whole weights."""
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        with self.accelerator.autocast():  # as the model was evaluated
            whole = model.get_base_model() if isinstance(model, PeftModel) else model
            sheet, answers = answer_sample_rows(whole, self.processing_class, self._sample_rows)
        model.train(was_training)
        report_samples(self, sheet, answers)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        # "loss", "eval_loss" or "eval_caption_loss"; "train_loss" is of the whole run, at its end
        total = next((name for name in logs if name.endswith("loss") and name != "train_loss"), None)
        if total is not None:
            sums = self._loss_sums["train" if total == "loss" else "eval"]
            # All processes reduce all parts, whether or not they met one
            means = zip(LOSS_PARTS, self.accelerator.reduce(sums, reduction="sum").tolist(), strict=True)
            logs |= {total.removesuffix("loss") + name: value / count for name, (value, count) in means if count}
            sums.zero_()
        if total == "loss":
            logs |= self._shares.shares(self.accelerator.reduce(self._shares.amounts, reduction="sum"))
            self._shares.amounts.zero_()
        super().log(logs, *args, **kwargs)

    def _save(self, *args, **kwargs) -> None:
        # FSDP2 makes the model an instance of a class of its own, whose code is not the one to save with the weights
        model_class = type(self.model)
        if issubclass(model_class, FSDPModule):
            self.model.__class__ = model_class.__bases__[1]
        try:
            super()._save(*args, **kwargs)
        finally:
            self.model.__class__ = model_class

    def create_model_card(self, *args, **kwargs) -> None:
        """None: the libraries' say nothing true of Setokim. `training.hub.model_card` writes one from an evaluation."""

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if self.args.visual_learning_rate is not None:
            names = {parameter: name for name, parameter in (model or self.model).named_parameters()}
            optimizer.param_groups = [
                {**group, "params": parameters, "lr": self.args.visual_learning_rate if visual else group["lr"]}
                for group in optimizer.param_groups
                for visual in (False, True)
                if (parameters := [p for p in group["params"] if is_language_parameter(names[p]) != visual])
            ]
        return optimizer


class SetokimTrainer(SetokimTrainerMixin, Trainer):
    """The Trainer of stage I."""


def load_setokim(
    name_or_path: str, values: dict | None, attn_implementation: str | None
) -> tuple[SetokimForConditionalGeneration, SetokimProcessor]:
    """A Setokim (folder or Hub id) in float32, with some values of its configuration changed, and its processor."""
    config = SetokimConfig.from_pretrained(name_or_path)
    update_config(config, values or {})
    options = {"config": config, "dtype": torch.float32}
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    model = load_whole(SetokimForConditionalGeneration.from_pretrained, name_or_path, "setokim", **options)
    return model, SetokimProcessor.from_pretrained(name_or_path)


def row_lengths(
    model: SetokimForConditionalGeneration, processor: SetokimProcessor, max_length: int | None, long_rows: LongRows
) -> RowLengths:
    """How long rows may be for a model."""
    setok = model.config.vision_config
    return RowLengths(processor, max_length, setok.fixed_tokens or setok.max_tokens, long_rows)


def is_language_parameter(name: str) -> bool:
    """Whether a parameter's path leads through the language model or its head."""
    return not set(LANGUAGE_PARTS).isdisjoint(name.split("."))
