"""The parts of a model, and which of them a stage trains."""

from collections.abc import Sequence

from torch import nn


def train_only(model: nn.Module, parts: Sequence[str]) -> None:
    """Freezes all of a model but the submodules and parameters named, each by its path, such as "detokenizer",
    "model.projector" or "logit_scale".

    Our models keep a part without trainable parameters in eval mode, so that its batch statistics stay as well.

    Raises:
        ValueError: for a name that is no parameter and no submodule with parameters, or for none at all.
    """
    found = {name: module for name, module in model.named_modules() if any(True for _ in module.parameters())}
    found |= dict(model.named_parameters())
    unknown = [part for part in parts if not part or part not in found]
    if unknown or not parts:
        children = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
        reason = (
            f"No part to train is called {unknown}" if parts else "trainable is empty, and nothing would be trained"
        )
        raise ValueError(f"{reason}; the model's parts are {children} and theirs.")
    model.requires_grad_(False)
    for part in parts:
        found[part].requires_grad_(True)
    model.train(model.training)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """The numbers of all parameters and of those that are trained; shared ones count once."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, trained in counts if trained)


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The children of a model of transformers, those of its base model in place of the base model."""
    base = model.base_model
    return dict(base.named_children()) | {name: part for name, part in model.named_children() if part is not base}


def part_sizes(model: nn.Module) -> str:
    """ "setok 0.90 M, language_model 5.20 M (trained), ...": the parameters of each part, for people."""
    texts = []
    for name, part in parts_of(model).items():
        total, trained = count_parameters(part)
        note = "" if not trained else " (trained)" if trained == total else f" ({trained / 1e6:.2f} M trained)"
        if total:
            texts.append(f"{name} {total / 1e6:.2f} M{note}")
    return ", ".join(texts)
