"""The keyword arguments of a model's forward: which there are, and what more than its result they ask of an encoder."""

import inspect

import torch
from torch import nn
from transformers.utils import ModelOutput, TransformersKwargs

COMMON_ARGUMENTS = frozenset(TransformersKwargs.__annotations__)  # which transformers may pass to any model


def refuse_unknown_arguments(kwargs: dict, part: nn.Module | None = None) -> None:
    """Raises for keywords that are neither the part's, to which they go, nor those that transformers passes to any.

    Raises:
        TypeError: there is such a keyword; most often a misspelt one.
    """
    unknown = [name for name in kwargs if name not in COMMON_ARGUMENTS]
    if unknown and part is not None:
        unknown = [name for name in unknown if name not in inspect.signature(part.forward).parameters]
    if unknown:
        raise TypeError(f"Unknown arguments {unknown}: the docstring says which there are.")


def requested_outputs(config, output_hidden_states: bool | None, output_attentions: bool | None) -> dict[str, bool]:
    """The further outputs to request of an encoder: those asked for in the call, else in the config."""
    requested = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
    requested = {name: getattr(config, name) if value is None else value for name, value in requested.items()}
    return {name: value for name, value in requested.items() if value}


def returned_outputs(outputs: ModelOutput, config, **requested) -> dict[str, tuple[torch.Tensor, ...]]:
    """What an encoder, of this config, returned of what was requested: `hidden_states`, `attentions`.

    Raises:
        ValueError: it returned none.
    """
    returned = {}
    for name in (name.removeprefix("output_") for name in requested):
        returned[name] = outputs.get(name)
        if not returned[name]:
            raise ValueError(
                f"The encoder {config.model_type} gives no {name} with attn_implementation="
                f'"{config._attn_implementation}". Attentions need an encoder that has attention, set to "eager" '
                f"(model.set_attn_implementation); leave output_{name} out otherwise."
            )
    return returned
