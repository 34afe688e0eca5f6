"""Models from folders and the Hub, whole or not at all: none starts from random weights because its folder is wrong."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Parts of pretrained vision models that SeTok never runs, and that some checkpoints leave out
UNUSED_IN_ENCODERS = r"(.*\.)?(pooler\..*|mask_token)"
FROZEN_PARTS = "frozen_parts.json"  # beside the trained weights of a model that is shipped without its frozen ones


def load_whole(
    load: Callable,
    name_or_path: str,
    model_type: str | None = None,
    may_lack: str | None = None,
    may_have_more: bool = False,
    **kwargs,
):
    """A pretrained model, all of whose weights are in its files.

    Args:
        load: a `from_pretrained`, or a function that takes and returns the same.
        model_type: what its configuration must be of. A SeTok is not taken out of a Setokim, which lacks its concept
            bank and projections.
        may_lack: pattern of the names of weights that nothing reads.
        may_have_more: the files may have weights that the model has no place for: a two-tower model of which one half
            is taken, a language model with further heads.
        kwargs: as `from_pretrained` takes them.

    Raises:
        ValueError: weights are missing, too many, of other shapes, or damaged; the model is of another type, or not in
            reach.
    """
    if model_type is not None:
        found = configuration(name_or_path).get("model_type")
        if found != model_type:
            raise ValueError(f"{name_or_path} holds a model of type {found!r}: name a {model_type!r}.")
    refuse_shipped_part(Path(name_or_path))
    refuse_damaged_weights(Path(name_or_path))
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # of its report, in which hundreds of names stand; ours is a sentence
    try:
        model, loading = load(name_or_path, output_loading_info=True, **kwargs)
    except RuntimeError as error:  # shapes that do not fit
        raise ValueError(f"The weights in {name_or_path} do not fit its configuration: {error}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    missing = [name for name in loading["missing_keys"] if not (may_lack and re.fullmatch(may_lack, name))]
    unexpected = () if may_have_more else loading["unexpected_keys"]
    refuse_other_weights(name_or_path, type(model).__name__, missing, unexpected)
    return model


def load_language_model(name_or_path: str) -> PreTrainedModel:
    """A causal language model in float32, or the one inside a Setokim: with the tokens of another SeTok names and forms
    of sentences need not be learned anew.

    Raises:
        ValueError: as `load_whole`.
    """
    options = {"may_have_more": True, "dtype": torch.float32}
    found = configuration(name_or_path)
    if found.get("model_type") == "setokim":
        config = AutoConfig.for_model(**found["text_config"])
        prefix = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].base_model_prefix
        options |= {"config": config, "key_mapping": {r"^model\.language_model\.": f"{prefix}."}}
    return load_whole(AutoModelForCausalLM.from_pretrained, name_or_path, **options)


def configuration(name_or_path: str) -> dict:
    """What is in a model's config.json; a `ValueError` where there is none in reach."""
    try:
        found = PreTrainedConfig.get_config_dict(name_or_path)[0]
    except OSError as error:
        raise ValueError(f"{name_or_path} is no folder of a model here, nor in reach on the Hub: {error}") from error
    if not found:
        raise ValueError(f"{name_or_path} has no config.json: name the folder of a model.")
    return found


def refuse_other_weights(name_or_path: str, wanted: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raises a `ValueError` that names weights which a model misses in a folder, or has no place for."""
    told = [
        f"{what} {len(names)} weights ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("lacks", sorted(missing)), ("has besides", sorted(unexpected)))
        if names
    ]
    if told:
        raise ValueError(
            f"{name_or_path} does not hold a whole {wanted}: it {' and '.join(told)}. Name the folder or the "
            f"repository of a {wanted}; nothing is trained or measured with random weights in their place."
        )


def refuse_shipped_part(folder: Path) -> None:
    """Raises a `ValueError` for a folder with only what was trained of a model (`training/hub/frozen_parts.py`)."""
    if (folder / FROZEN_PARTS).is_file():
        raise ValueError(
            f"{folder} holds only what was trained of a model: `make demo` puts it together with its frozen parts, in "
            f"build/hub/{folder.resolve().name}; name that folder."
        )


def refuse_damaged_weights(folder: Path) -> None:
    """Raises a `ValueError` for weights in a folder that cannot be read, or an index that names others than its own."""
    for index in (folder / name for name in INDICES):
        if index.is_file():
            refuse_wrong_index(index)
    for file in sorted([*folder.glob("model*.safetensors"), *folder.glob("adapter_model*.safetensors")]):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}): delete or replace it.") from error


def refuse_wrong_index(index: Path) -> None:
    """Raises a `ValueError` unless the index of shards names files beside it."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise ValueError(f"{index} is no index of shards, a mapping with weight_map from weights to files: replace it.")
    files = set(shards.values())
    outside = [file for file in files if Path(file).name != file]
    if outside:
        raise ValueError(f"{index} leads out of its folder, to {sorted(outside)[0]}: do not use this model.")
    missing = sorted(file for file in files if not (index.parent / file).is_file())
    if missing or not files:
        raise ValueError(f"{index} names the shards {missing}, which are not there: copy them, or replace the index.")
