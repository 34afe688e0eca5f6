"""Values of a model's configuration as recipes name them: unknown names and wrong values are refused."""

import dataclasses
import difflib
from collections.abc import Iterable

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Older names that transformers still takes, and turns into others
_OLDER_NAMES = {"rope_parameters": ("rope_theta", "rope_scaling", "partial_rotary_factor"), "dtype": ("torch_dtype",)}


def nearest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?", or nothing where no known name is near."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def new_config(config_class: type[PreTrainedConfig], values: dict) -> PreTrainedConfig:
    """A configuration with these values, nested as it is, and defaults for the others.

    Raises:
        ValueError: for a value that the configuration does not have or does not take.
    """
    refuse_unknown_values(config_class, values)
    try:
        return config_class(**values)
    except StrictDataclassError as error:
        raise ValueError(f"A value of {config_class.__name__} is wrong. {error}") from error


def update_config(config: PreTrainedConfig, values: dict) -> None:
    """Sets values, nested as the config is, on the config of a model that goes on training.

    Raises:
        ValueError: for a value that the configuration does not have or does not take.
    """
    known = _names(type(config))
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{name} is not a value of {type(config).__name__}.{nearest(str(name), known)}")
        part = getattr(config, name)
        if isinstance(part, PreTrainedConfig):
            if not isinstance(value, dict):
                raise ValueError(f"{name} is a part of {type(config).__name__}: give a mapping, got {value!r:.200}.")
            if value.get("model_type", part.model_type) != part.model_type:
                raise ValueError(f"{name} is a {part.model_type}, and cannot become a {value['model_type']}.")
            update_config(part, {key: value[key] for key in value if key != "model_type"})
            continue
        if name in config.sub_configs and value is not None:
            raise ValueError(f"This {type(config).__name__} has no {name}, and a model that goes on gets no new part.")
        try:
            setattr(config, name, value)
        except StrictDataclassError as error:
            raise ValueError(f"A value of {type(config).__name__} is wrong. {error}") from error
    try:
        config.validate()
    except StrictDataclassError as error:
        raise ValueError(f"The values {values} do not fit {type(config).__name__}. {error}") from error


def refuse_unknown_values(config_class: type[PreTrainedConfig], values: dict) -> None:
    """Raises a `ValueError` that tells the nearest name for a value that the configuration, or a part of it, has not:
    transformers would keep it without a word."""
    known = _names(config_class)
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{name} is not a value of {config_class.__name__}.{nearest(str(name), known)}")
        spec = config_class.sub_configs_defaults.get(name)
        if spec is not None and isinstance(value, dict):
            part_class = spec.config_class
            if part_class is AutoConfig:
                part_class = config_class_of(name, value, spec.model_type)
            refuse_unknown_values(part_class, {key: value[key] for key in value if key != "model_type"})


def config_class_of(name: str, values: dict, default: str | None = None) -> type[PreTrainedConfig]:
    """The class of `model_type` in a configuration's values.

    Args:
        name: what the configuration is called, for the message.

    Raises:
        ValueError: there is none, or transformers does not know it.
    """
    model_type = values.get("model_type", default)
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        hint = nearest(str(model_type), CONFIG_MAPPING)
        raise ValueError(f"{name} needs a model_type of transformers, such as 'llama', got {model_type!r}.{hint}")
    return CONFIG_MAPPING[model_type]


def _names(config_class: type[PreTrainedConfig]) -> set[str]:
    names = {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    return names.union(*(older for name, older in _OLDER_NAMES.items() if name in names))
