"""The Trainer of stage 0: reconstruction, perceptual, adversarial and contrastive loss (Eq. 3)."""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from processing import SetokImageProcessor, contact_sheet, draw_concept_tokens, side_by_side

from .checkpoints import told_of
from .losses import AdversarialLoss
from .recipe import check_ranges, check_training_arguments
from .samples import report_samples
from .streaming import StreamingTrainerMixin

ADVERSARIAL_STATE = "adversarial.pt"


@dataclass
class SetokTrainingArguments(TrainingArguments):
    """Arguments of stage 0 beside those of `transformers.TrainingArguments`."""

    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator reads the rows' columns itself"})
    absolute_weight: float = field(default=0.0, metadata={"help": "weight of the L1 reconstruction loss, beside L2"})
    perceptual_weight: float = field(default=0.0, metadata={"help": "weight of the perceptual loss"})
    perceptual_pictures: int | None = field(
        default=None,
        metadata={
            "help": "pictures of a device's batch that the perceptual loss looks at (all), for where it costs most"
        },
    )
    adversarial_weight: float = field(default=0.0, metadata={"help": "weight of the PatchGAN generator loss"})
    adversarial_start_step: int = field(default=0, metadata={"help": "step from which the discriminator takes part"})
    adversarial_learning_rate: float = field(default=1e-4, metadata={"help": "of the discriminator"})
    lecam_weight: float = field(default=0.001, metadata={"help": "weight of LeCam regularisation"})
    discriminator_width: int = field(default=128, metadata={"help": "channels of the discriminator's first stage"})
    sample_images: int = field(default=4, metadata={"help": "pictures written at each evaluation"})

    def __post_init__(self):
        super().__post_init__()
        check_training_arguments(self)
        check_ranges(self, absolute_weight=0, perceptual_weight=0, adversarial_weight=0, lecam_weight=0)
        check_ranges(self, adversarial_start_step=0, adversarial_learning_rate=0, discriminator_width=1)
        check_ranges(self, sample_images=0)
        if self.perceptual_pictures is not None:
            check_ranges(self, perceptual_pictures=1)


class SetokTrainer(StreamingTrainerMixin, Trainer):
    """Trains `SetokForPreTraining`; logs every part of the loss by its name.

    Args:
        perceptual_loss: callable (reconstruction, target) -> scalar, needed where `args.perceptual_weight` > 0.
        adversarial_loss: needed where `args.adversarial_weight` > 0; it has an optimizer of its own, and both are saved
            in the checkpoints for an exact resume.
        evaluate_fn: model -> metrics, called at each evaluation.
        sample_images: pictures to tokenise and paint at each evaluation, written to `output_dir/samples`, and to
            TensorBoard and trackio where `args.report_to` has them.
    """

    def __init__(
        self,
        *args,
        perceptual_loss: Callable | None = None,
        adversarial_loss: AdversarialLoss | None = None,
        evaluate_fn: Callable[[torch.nn.Module], dict[str, float]] | None = None,
        sample_images: Sequence[Image.Image] = (),
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "SeTok is evaluated, calibrated and judged by its discriminator with whole weights, which a device can "
                "hold: launch it with DDP (training/recipes/accelerate/ddp.yaml) instead of FSDP or DeepSpeed."
            )
        self.evaluate_fn = evaluate_fn
        self.sample_images = list(sample_images)
        self.perceptual_loss = perceptual_loss
        if isinstance(perceptual_loss, torch.nn.Module):
            perceptual_loss.to(self.args.device)
        self.adversarial_loss = None
        if adversarial_loss is not None:
            optimizer = torch.optim.AdamW(
                adversarial_loss.parameters(), lr=self.args.adversarial_learning_rate, betas=(0.5, 0.9)
            )
            self.adversarial_loss, self.adversarial_optimizer = self.accelerator.prepare(adversarial_loss, optimizer)
        self._loss_parts: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(2, device=self.args.device))

    def create_model_card(self, *args, **kwargs) -> None:
        """None: transformers' says nothing true of SeTok. `training.hub.model_card` writes one from an evaluation."""

    # ---- the loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        names = ("reconstruction_loss", "contrastive_loss", "placement_loss")
        parts = {name: getattr(outputs, name) for name in names}
        loss = outputs.loss
        if outputs.reconstruction is not None:
            reconstruction, target = outputs.reconstruction.float(), inputs["target_pixel_values"]
            if self.args.absolute_weight > 0:
                parts["absolute_loss"] = torch.nn.functional.l1_loss(reconstruction, target)
                loss = loss + self.args.absolute_weight * parts["absolute_loss"]
            if self.args.perceptual_weight > 0:
                looked_at = (
                    self._in_range(pixels[: self.args.perceptual_pictures]) for pixels in (reconstruction, target)
                )
                parts["perceptual_loss"] = self.perceptual_loss(*looked_at)
                loss = loss + self.args.perceptual_weight * parts["perceptual_loss"]
            if self.adversarial_loss is not None and model.training:
                adversarial = self.accelerator.unwrap_model(self.adversarial_loss)
                weight = adversarial.weight(self.state.global_step)
                if weight > 0:
                    parts["generator_loss"] = adversarial.generator_loss(reconstruction)
                    loss = loss + weight * parts["generator_loss"]
                    self._painted = reconstruction.detach(), target
            parts["num_tokens"] = outputs.setok_output.num_tokens.float().mean()
        if model.training:
            self._record(parts)
        return (loss, outputs) if return_outputs else loss

    def _in_range(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels as the image processor normalises them to [-1, 1], as a perceptual loss takes them."""
        processor: SetokImageProcessor = self.processing_class
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        return pixels * (2 * std) + (2 * mean - 1)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """The generator's turn, then the discriminator's, whose gradient is the mean over as many batches."""
        self._painted = None
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._painted is None:
            return loss
        losses = self.adversarial_loss(*self._painted)
        self.accelerator.backward(losses.loss / self.current_gradient_accumulation_steps)
        if self.accelerator.sync_gradients:
            self.adversarial_optimizer.step()
            self.adversarial_optimizer.zero_grad()
        self._record({"discriminator_loss": losses.hinge, "lecam_loss": losses.lecam})
        return loss

    def _record(self, parts: dict[str, torch.Tensor | None]) -> None:
        """Adds the parts of the loss to the means that the next log shows."""
        for name, part in parts.items():
            if part is not None:
                self._loss_parts[name] += torch.stack([part.detach().float(), torch.ones_like(part).float()])

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            for name, part in self._loss_parts.items():
                total, count = self.accelerator.reduce(part, reduction="sum").tolist()
                logs[name] = total / count
            self._loss_parts.clear()
        super().log(logs, *args, **kwargs)

    # ---- evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Metrics of `evaluate_fn` on the main process, and sample pictures."""
        metrics, samples = {}, None
        if self.is_world_process_zero():
            model = self.accelerator.unwrap_model(self.model)
            was_training = model.training
            model.eval()
            if self.evaluate_fn is not None:
                metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.evaluate_fn(model).items()}
            if self.sample_images:
                samples = self._paint_samples(model)
            model.train(was_training)
        self.accelerator.wait_for_everyone()
        self.log(dict(metrics))
        if samples is not None:
            report_samples(self, samples)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def _paint_samples(self, model) -> Image.Image:
        processor: SetokImageProcessor = self.processing_class
        pixel_values = processor(self.sample_images, return_tensors="pt")["pixel_values"].to(self.args.device)
        outputs = model.setok(pixel_values)
        painted = model.detokenize(outputs.last_hidden_state, outputs.token_mask)
        painted = processor.postprocess(painted, target_sizes=[image.size[::-1] for image in self.sample_images])
        rows = [
            side_by_side(
                [image, draw_concept_tokens(image, ids, outputs.grid_size), reconstruction],
                ["original", f"{count} concept tokens", "painted back"],
            )
            for image, ids, count, reconstruction in zip(
                self.sample_images, outputs.cluster_ids, outputs.num_tokens.tolist(), painted, strict=True
            )
        ]
        return contact_sheet(rows)

    # ---- checkpoints

    def _add_to_checkpoint(self, folder: Path) -> None:
        super()._add_to_checkpoint(folder)
        if self.adversarial_loss is not None:
            state = {
                "loss": self.accelerator.unwrap_model(self.adversarial_loss).state_dict(),
                "optimizer": self.adversarial_optimizer.state_dict(),
            }
            torch.save(state, folder / ADVERSARIAL_STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.adversarial_loss is not None:
            path = os.path.join(checkpoint, ADVERSARIAL_STATE)
            if not os.path.isfile(path):
                raise FileNotFoundError(
                    f"{path} is missing: the checkpoint was made without an adversarial loss. Resume with "
                    "adversarial_weight=0, or start a new run from its weights (model_name_or_path)."
                )
            state = torch.load(path, map_location=self.args.device, weights_only=True)
            with told_of(checkpoint, f"{ADVERSARIAL_STATE} does not fit the discriminator"):
                self.accelerator.unwrap_model(self.adversarial_loss).load_state_dict(state["loss"])
                self.adversarial_optimizer.load_state_dict(state["optimizer"])
