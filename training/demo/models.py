"""The shipped or trained models of the demo, from folders; what a folder lacks is said, and how to get one."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedModel

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokImageProcessor, SetokimProcessor
from training.demo.photographs import PhotographModel
from training.loading import refuse_shipped_part

# Which models the demo and its page show: a SeTok of photographs, one of drawn scenes, and a Setokim of such scenes
PHOTOGRAPHS = "build/hub/setok-dinov2-small"
SCENES = "model_cards/setok-emoji-tiny"  # counts and names small drawn things better, on a grid as fine at 64 pixels
SETOKIM = "build/hub/setokim-dinov2-small"
MAKE_PHOTOGRAPHS = "`make demo` downloads its encoder (90 MB) and assembles it"
TRAIN_SETOK = "To train one: python training/train_setok.py training/recipes/setok_emoji_tiny.yaml"
MAKE_SETOKIM = (
    "`make demo` puts the shipped one together. To train one: the recipes setokim_dinov2_small_*.yaml, in the order of "
    "training/README.md"
)


def load_setok(folder: str) -> tuple[SetokForPreTraining, SetokImageProcessor]:
    """A trained model and its image processor; `ValueError` says what the folder lacks and how to get one."""
    return _load(folder, "SeTok", SetokForPreTraining, SetokImageProcessor, TRAIN_SETOK)


def load_photograph_model(folder: str) -> PhotographModel:
    """A SeTok whose encoder knows photographs; `ValueError` says what the folder lacks and how to make it."""
    if not Path(folder).is_dir():
        raise ValueError(f"there is no SeTok of photographs in {folder!r}: {MAKE_PHOTOGRAPHS}.")
    model, image_processor = load_setok(folder)
    try:
        return PhotographModel(model, image_processor)
    except ValueError as error:
        raise ValueError(f"{folder!r} holds no SeTok of photographs: {error}.") from error


def load_setokim(folder: str) -> tuple[SetokimForConditionalGeneration, SetokimProcessor]:
    """A trained model and its processor; `ValueError` says what the folder lacks and how to get one."""
    return _load(folder, "Setokim", SetokimForConditionalGeneration, SetokimProcessor, MAKE_SETOKIM)


def _load(folder: str, name: str, model_class: type[PreTrainedModel], processor_class: type, how_to_get_one: str):
    try:
        if not Path(folder).is_dir():  # transformers would ask the Hub for it
            raise ValueError("there is no such folder")
        refuse_shipped_part(Path(folder))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # by default it would ask on the terminal
        if not isinstance(config, model_class.config_class):  # transformers would only warn
            raise ValueError(f"it holds a model of type {config.model_type!r}")
        model, loading = model_class.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True)
        if others := sorted(loading["mismatched_keys"]):
            tensor, found, expected = others[0]
            raise ValueError(
                f"{len(others)} tensors are not of the shapes that config.json says, such as {tensor}: "
                f"{tuple(found)} instead of {tuple(expected)}"
            )
        if missing := sorted(loading["missing_keys"]):
            raise ValueError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
        return model.eval(), processor_class.from_pretrained(folder)
    except Exception as error:  # on broken files transformers raises anything
        reason = error if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder!r} holds no trained {name}: {reason}\n{how_to_get_one}") from error
