"""The SeTok of a folder: the one that it holds, or a new one around the vision encoder that it holds."""

from pathlib import Path

from transformers import AutoConfig, AutoImageProcessor

from modeling_setok import SetokConfig, SetokModel
from processing import SetokImageProcessor


def holds_setok(folder: str | Path) -> bool:
    """Whether a folder holds a SeTok, rather than a vision encoder.

    Raises:
        ValueError: it holds no model, or a Setokim.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"There is no model in {folder}: it has no config.json. Give the folder of a SeTok or encoder."
        )
    model_type = AutoConfig.from_pretrained(folder).model_type
    if model_type == "setokim":
        raise ValueError(f"{folder} holds a Setokim: give the folder of its SeTok, which is trained before it.")
    return model_type == "setok"


def load_setok(folder: str | Path, config: SetokConfig | None = None) -> tuple[SetokModel, SetokImageProcessor]:
    """The model, in eval mode, and its image processor; `config` is of a SeTok that is made around an encoder."""
    if holds_setok(folder):
        return SetokModel.from_pretrained(folder).eval(), SetokImageProcessor.from_pretrained(folder)
    model = SetokModel.from_vision_pretrained(str(folder), config)
    return model, SetokImageProcessor.from_encoder(AutoImageProcessor.from_pretrained(folder))
