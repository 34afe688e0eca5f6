"""Loads repositories of SeTok and Setokim models as a stranger does, with their own code, and tells what works:

python training/hub/check_repository.py REPOSITORY [...]     folders or Hub ids

It needs torch, transformers, pillow and numpy, diffusers to paint, and nothing of this project: whatever of it is
installed is hidden first.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from huggingface_hub import snapshot_download
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import pipeline

OWN_PACKAGES = ("modeling_setok", "processing", "training")
OPTIONAL = ("torchvision", "flash_attn", "diffusers")
QUESTION = "How many objects are there in the picture?"
PROMPT = "Draw: a red car on a plain blue background."


def check(repository: str, revision: str | None = None, saved_again: bool = False) -> None:
    """Prints a line for everything that works.

    Args:
        repository: folder or Hub id.
        saved_again: it was saved by this function, which would otherwise save it, too, and have that checked.
    """
    options = {"trust_remote_code": True, **({"revision": revision} if revision else {})}
    here = Path(repository)
    folder = here if here.is_dir() else Path(snapshot_download(repository, revision=revision))
    check_configurations(folder)
    parts = {"AutoConfig": transformers.AutoConfig.from_pretrained(repository, **options)}
    say(repository, "AutoConfig", type(parts["AutoConfig"]).__name__)
    if not isinstance(parts["AutoConfig"].architectures, list) or len(parts["AutoConfig"].architectures) != 1:
        raise ValueError("config.json names no architecture, or several: save the model again with save_pretrained.")
    stored = stored_tensors(folder)
    if not stored:
        raise ValueError("it has no weights in model*.safetensors: save the model again with save_pretrained.")

    auto_map = getattr(parts["AutoConfig"], "auto_map", {})
    unknown = [name for name in auto_map if not hasattr(transformers, name)]
    if unknown:
        raise ValueError(f"auto_map in config.json names {unknown[0]}, which transformers does not have: delete it.")
    for auto_class in [name for name in auto_map if name != "AutoConfig"]:
        model = getattr(transformers, auto_class).from_pretrained(repository, **options).eval()
        parts[auto_class] = model
        say(repository, auto_class, f"{type(model).__name__}, {compare_weights(model, stored)}")
    names = ["AutoImageProcessor"]
    if (folder / "tokenizer_config.json").exists():
        names += ["AutoProcessor", "AutoTokenizer"]
    for name in names:
        parts[name] = getattr(transformers, name).from_pretrained(repository, **options)
        say(repository, name, type(parts[name]).__name__)

    if "AutoModelForImageTextToText" in parts:
        use_setokim(repository, parts, options)
    elif parts["AutoConfig"].model_type == "setok":
        use_setok(repository, parts)
    if not saved_again:
        save_again(repository, folder, stored, parts)


def check_configurations(folder: Path) -> None:
    """Raises a `ValueError` that names a configuration which is no JSON object, or whose class is no name."""
    for file in sorted(folder.glob("*config.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file.name} is not JSON in UTF-8 ({error}): save it again.") from error
        if not isinstance(content, dict):
            raise ValueError(f"{file.name} is not a JSON object: save it again.")
        for key in ("model_type", "image_processor_type", "processor_class", "tokenizer_class"):
            if not isinstance(content.get(key, ""), str | None):
                raise ValueError(f"{key} in {file.name} is no name, but {content[key]!r}: save it again.")


def compare_weights(model: transformers.PreTrainedModel, stored: dict[str, torch.Tensor]) -> str:
    """How many tensors of the model are among those stored, number by number.

    Raises:
        ValueError: a tensor differs or, in the model that was saved, is missing on either side.
    """
    left = dict(stored)
    is_whole = type(model).__name__ in model.config.architectures  # before it is saved, which puts its own class there
    tensors = saved_tensors(model)
    prefix = "" if is_whole else f"{model.base_model_prefix}."
    for name, tensor in tensors.items():
        other = left.pop(prefix + name, None)
        if other is None or not same_numbers(other, tensor):
            raise ValueError(f"{name} of {type(model).__name__} is not the one in the files.")
    if is_whole and left:
        raise ValueError(f"The files have weights without a place in {type(model).__name__}: {sorted(left)}.")
    return f"{len(tensors)} tensors equal to those in the files"


def same_numbers(stored: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether they are equal. The dtype of the first may be the narrower one: weights may be stored in two bytes."""
    if torch.promote_types(stored.dtype, tensor.dtype) != tensor.dtype:
        return False
    return torch.equal(stored.to(tensor.dtype), tensor)


def use_setok(repository: str, parts: dict) -> None:
    image_processor = parts["AutoImageProcessor"]
    with torch.no_grad():
        encoded = parts["AutoModel"](image_processor([example_picture()], return_tensors="pt")["pixel_values"])
        say(repository, "tokenise", f"a picture becomes {int(encoded.num_tokens[0])} concept tokens")
        if model := parts.get("AutoModelForPreTraining"):
            painted = model.detokenize(encoded.last_hidden_state, encoded.token_mask)
            (picture,) = image_processor.postprocess(painted)
            say(repository, "detokenize", f"they are painted as {picture.size} pixels")


def use_setokim(repository: str, parts: dict, options: dict) -> None:
    model, processor = parts["AutoModelForImageTextToText"], parts["AutoProcessor"]
    picture = example_picture()
    chat = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]}]
    pipe = pipeline("image-text-to-text", model=repository, **options)
    (answer,) = pipe(text=chat, max_new_tokens=16, return_full_text=False)
    say(repository, 'pipeline("image-text-to-text")', f"{QUESTION} {answer['generated_text']!r}")
    say(repository, "caption", repr(model.caption(processor, picture)))
    try:
        painted = model.generate_image(processor, PROMPT, generator=torch.Generator().manual_seed(0))
        mask = model.segment(processor, picture, "the red car")
    except ImportError as error:  # of diffusers, which only this needs
        say(repository, "generate_image, segment", f"not here: {error}")
    else:
        say(repository, "generate_image", f"{PROMPT!r} becomes a picture of {painted.size} pixels")
        say(repository, "segment", f"a mask of {mask.shape} pixels")


def save_again(repository: str, folder: Path, stored: dict[str, torch.Tensor], parts: dict) -> None:
    """Saves what was loaded, and checks in another process that it loads just as well."""
    (architecture,) = parts["AutoConfig"].architectures
    model = next(part for part in parts.values() if type(part).__name__ == architecture)
    with tempfile.TemporaryDirectory() as again:
        model.save_pretrained(again)
        parts.get("AutoProcessor", parts["AutoImageProcessor"]).save_pretrained(again)
        compare_files(folder, stored, Path(again))
        command = [sys.executable, "-P", __file__, again, "--saved-again"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"What was saved again does not load:\n{result.stderr}")
    lines = len(result.stdout.splitlines()) - 1
    say(repository, "save_pretrained", f"code and weights as they were; a new process repeated {lines} lines of this")


def compare_files(folder: Path, stored: dict[str, torch.Tensor], again: Path) -> None:
    """Raises a `ValueError` unless code and weights are the same; the weights may be in other shards."""
    for file in folder.glob("*.py"):
        if not (again / file.name).exists() or (again / file.name).read_bytes() != file.read_bytes():
            raise ValueError(f"{file.name} was not saved again as it was.")
    saved = stored_tensors(again)
    if stored.keys() != saved.keys() or not all(same_numbers(stored[name], saved[name]) for name in stored):
        raise ValueError("The weights were not saved again as they were.")


def stored_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors in the weight files of a folder."""
    return {name: tensor for file in folder.glob("model*.safetensors") for name, tensor in load_file(file).items()}


def saved_tensors(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    """The model's tensors by the names in its files: transformers renames some in loading, and back in saving."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return stored_tensors(Path(folder))


def example_picture() -> Image.Image:
    """A disc on a background, 200 x 160 pixels."""
    picture = Image.new("RGB", (200, 160), "royalblue")
    ImageDraw.Draw(picture).ellipse((40, 30, 120, 110), fill="gold", outline="black", width=4)
    return picture


def say(repository: str, name: str, what: str) -> None:
    print(f"{Path(repository).name:23} {name:31} {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repositories", nargs="+", metavar="REPOSITORY", help="folder or Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of Hub repositories; default: main")
    parser.add_argument("--saved-again", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.modules.update(dict.fromkeys(OWN_PACKAGES))  # None: importing them fails
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    versions = {name: sys.modules[name].__version__ for name in ("torch", "transformers")}
    installed = ", ".join(f"{name}: {'there' if find_spec(name) else 'absent'}" for name in OPTIONAL)
    print(f"{json.dumps(versions)}; {installed}; {', '.join(OWN_PACKAGES)}: hidden")
    for repository in arguments.repositories:
        try:
            check(repository, arguments.revision, arguments.saved_again)
        except Exception as error:  # a stranger's code and files may raise anything
            kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
            sys.exit(f"Error: {repository} does not work: {kind}{error}")


if __name__ == "__main__":
    main()
