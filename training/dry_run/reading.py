"""How a model will read rows: the processor of a Setokim that is there, or of one that is to be made."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from transformers import AutoConfig, AutoTokenizer
from transformers.configuration_utils import PreTrainedConfig

from modeling_setok import SetokConfig, SetokimConfig
from processing import SetokImageProcessor, SetokimProcessor
from training.data.bpe_tokenizer import train_tokenizer

Found = TypeVar("Found")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
DEFAULT_PROCESSOR = "The image processor is missing: pictures are shown as the default one makes them."
_BYTES = 270  # the vocabulary of a tokenizer that has little more than bytes


@dataclass(frozen=True)
class ModelSource:
    """What a recipe begins with: a Setokim, or a SeTok with a language model, pretrained or new.

    Args:
        model: folder or Hub id of the Setokim.
        setok, language_model: of the parts of a new one.
        vocab_size: of a tokenizer that is to be learned from the data, for a new language model.
        config: values of SetokimConfig that the recipe changes.
    """

    model: str | None = None
    setok: str | None = None
    language_model: str | None = None
    vocab_size: int | None = None
    config: dict | None = None


@dataclass
class Reading:
    """A processor that writes and reads rows.

    Attributes:
        image_tokens: the most visual tokens of an image.
        counts_tokens: whether the tokenizer is that of the model; else it only serves to write the template.
        missing: what could not be loaded.
        notes: what stands in for it, and other things to know.
    """

    processor: SetokimProcessor
    image_tokens: int
    counts_tokens: bool
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def reading_of(source: ModelSource, texts: Iterable[str]) -> Reading:
    """What can be had of a model without its weights; `texts` are of its data."""
    missing, notes = [], []
    if source.model is not None:
        _look_for_weights(source.model, missing)
        processor = _load(SetokimProcessor.from_pretrained, source.model, missing)
        config = _load(partial(_config, SetokimConfig), source.model, missing)
        setok = config and config.vision_config
        image_processor, tokenizer = processor and processor.image_processor, None
    else:
        processor, image_processor, setok, tokenizer = None, None, None, None
        if source.setok is None:
            missing.append("setok_model_name_or_path: a new Setokim needs it")
        else:
            _look_for_weights(source.setok, missing)
            image_processor = _load(SetokImageProcessor.from_pretrained, source.setok, missing)
            setok = _load(partial(_config, SetokConfig), source.setok, missing)
        if source.language_model is not None:
            _look_for_weights(source.language_model, missing)
            tokenizer = _load(AutoTokenizer.from_pretrained, source.language_model, missing)
        elif source.vocab_size is not None:
            tokenizer = train_tokenizer(texts, source.vocab_size)
            notes.append("Tokens are those of a tokenizer learned from the sample; the run learns its own from more.")
        else:
            missing.append("language_model_name_or_path or text_config: a new Setokim needs one of them")
    counts_tokens = processor is not None or tokenizer is not None
    if not counts_tokens:
        notes.append("No token is counted, and no row found too long: the tokenizer is missing.")
    if setok is None:
        notes.append(f"The SeTok is missing: its most tokens are taken to be {SetokConfig().max_tokens}, the default.")
    if image_processor is None:
        notes.append(DEFAULT_PROCESSOR)
        image_processor = SetokImageProcessor()
    if processor is None:
        processor = SetokimProcessor.from_parts(image_processor, tokenizer or train_tokenizer([], _BYTES))
    return Reading(processor, _image_tokens(setok or SetokConfig(), source.config or {}), counts_tokens, missing, notes)


def missing_models(setok: str | None, names: Iterable[str]) -> list[str]:
    """What cannot be had of a SeTok, and of other models, folders, Hub ids or files of weights."""
    missing = []
    if setok is not None:
        _look_for_weights(setok, missing)
        _load(partial(_config, SetokConfig), setok, missing)
    for name in dict.fromkeys(names):  # an encoder of two towers may be named for both
        if not name.endswith(".safetensors"):
            _look_for_weights(name, missing)
            _load(AutoConfig.from_pretrained, name, missing)
        elif not Path(name).is_file():
            missing.append(f"{name}: there is no such file")
    return missing


def _load(load: Callable[[str], Found], name: str, missing: list[str]) -> Found | None:
    try:
        return load(name)
    except (OSError, ValueError) as error:
        kind = load.args[0] if isinstance(load, partial) else load.__self__
        missing.append(f"{name} ({kind.__name__}): {str(error).strip().splitlines()[0]}")
        return None


def _config(config_class: type[PreTrainedConfig], name: str) -> PreTrainedConfig:
    """From a folder without a file of it, transformers would make a default one."""
    found = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    if found != config_class.model_type:
        raise ValueError(f"holds a model of type {found!r}, not {config_class.model_type!r}")
    return config_class.from_pretrained(name)


def _look_for_weights(name: str, missing: list[str]) -> None:
    """In a folder; of the Hub nobody is asked."""
    if Path(name).is_dir() and not any(any(Path(name).glob(pattern)) for pattern in _WEIGHTS):
        missing.append(f"{name}: there are no weights in it")


def _image_tokens(setok: SetokConfig, values: dict) -> int:
    changed = values.get("vision_config") or {}
    fixed = changed.get("fixed_tokens", setok.fixed_tokens)
    return fixed or changed.get("max_tokens", setok.max_tokens)
