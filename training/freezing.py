"""Which parts of a model a stage trains."""

from collections.abc import Sequence

from torch import nn


def train_only(model: nn.Module, parts: Sequence[str]) -> None:
    """Freezes all of a model but the submodules named, each by its path, such as "detokenizer" or "model.projector".

    Our models keep a part without trainable parameters in eval mode, so that its batch statistics stay as well.

    Raises:
        ValueError: for a name that is no submodule with parameters.
    """
    modules = dict(model.named_modules())
    unknown = [part for part in parts if part not in modules or not any(True for _ in modules[part].parameters())]
    if unknown or not parts:
        children = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
        raise ValueError(f"No part to train is called {unknown}; the model's parts are {children} and theirs.")
    model.requires_grad_(False)
    for part in parts:
        modules[part].requires_grad_(True)
    model.train(model.training)
