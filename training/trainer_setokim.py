"""What the trainers of Setokim's stages share: the loss by its parts, and a learning rate for the visual parts."""

from collections import defaultdict

import torch
from torch import nn
from transformers import Trainer

LOSS_PARTS = ("text_loss", "diffusion_loss", "mask_loss")
LANGUAGE_PARTS = ("language_model", "lm_head")
VISUAL_HEADS = ("model.multi_modal_projector", "diffusion_head", "mask_decoder")  # what Setokim adds to its parts


class SetokimTrainerMixin:
    """Mixed into a `Trainer` of `SetokimForConditionalGeneration`.

    - The loss is the model's own, with all of its parts; each is logged by its name, as a mean over the steps that had
      it and over all processes.
    - `args.visual_learning_rate`, where given, is that of all parameters outside the language model (Table 9).
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = {**inputs, "use_cache": False}
        loss, outputs = Trainer.compute_loss(
            self, model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        for name in LOSS_PARTS:
            part = getattr(outputs, name)
            if part is not None:
                sums = self._loss_sums.setdefault(model.training, defaultdict(lambda: loss.new_zeros(2)))
                sums[name] += torch.stack([part.detach().to(loss), torch.ones_like(loss)])
        return (loss, outputs) if return_outputs else loss

    @property
    def _loss_sums(self) -> dict:
        return self.__dict__.setdefault("_loss_sums_", {})

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        for training, key, prefix in ((True, "loss", ""), (False, "eval_loss", "eval_")):
            if key in logs or (not training and any(name.endswith("_loss") and "eval" in name for name in logs)):
                sums = self._loss_sums.pop(training, {})
                for name in LOSS_PARTS:  # every process takes part, whether or not it met the part
                    local = sums.get(name, torch.zeros(2, device=self.args.device))
                    total, count = self.accelerator.reduce(local.float(), reduction="sum").tolist()
                    if count:
                        logs[f"{prefix}{name}"] = total / count
        super().log(logs, *args, **kwargs)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        rate = self.args.visual_learning_rate
        if rate is None:
            return optimizer
        names = {parameter: name for name, parameter in (model or self.model).named_parameters()}
        for group in list(optimizer.param_groups):
            visual = [p for p in group["params"] if not is_language_parameter(names[p])]
            if visual and len(visual) < len(group["params"]):
                group["params"] = [p for p in group["params"] if is_language_parameter(names[p])]
                optimizer.add_param_group({**group, "params": visual, "lr": rate})
            elif visual:
                group["lr"] = rate
        return optimizer


class SetokimTrainer(SetokimTrainerMixin, Trainer):
    """The Trainer of stage I."""


def is_language_parameter(name: str) -> bool:
    """Whether a parameter's path leads through the language model or its head."""
    return not set(LANGUAGE_PARTS).isdisjoint(name.split("."))


def part_sizes(model: nn.Module) -> str:
    """ "setok 0.9 M, language_model 5.2 M (trained), ...": the parameters of each part, for the log."""
    parts = dict(model.model.named_children()) | {n: m for n, m in model.named_children() if n != "model"}
    texts = []
    for name, part in parts.items():
        parameters = list(part.parameters())
        trained = " (trained)" if any(parameter.requires_grad for parameter in parameters) else ""
        texts.append(f"{name} {sum(p.numel() for p in parameters) / 1e6:.2f} M{trained}")
    return ", ".join(texts)
