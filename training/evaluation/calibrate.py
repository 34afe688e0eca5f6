"""Measures S, the feature scale of the clustering, on pictures, and writes it into a SeTok.

    python -m training.evaluation.calibrate --model MY-SETOK --data PICTURES --output MY-SETOK-CALIBRATED
    python -m training.evaluation.calibrate --model ENCODER --data PICTURES --layer -2      # prints S of an encoder

Without --output S is written into the folder of the model itself. Nothing but S and the mean length of patch embeddings
changes.
"""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from modeling_setok import SetokConfig
from processing import SetokImageProcessor
from training.data import pictures_in
from training.evaluation.any_setok import holds_setok, load_setok
from training.evaluation.report import choose_device


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder of a SeTok, or of a vision encoder"})
    data: str = field(metadata={"help": "folder of pictures, of the kind that the model is for"})
    num_images: int = field(default=512, metadata={"help": "pictures, drawn at random from those of the folder"})
    layer: int | None = field(default=None, metadata={"help": "of an encoder: vision_feature_layer; default: the last"})
    seed: int = field(default=0, metadata={"help": "of the draw"})
    batch_size: int = field(default=16, metadata={"help": "pictures per forward pass"})
    device: str | None = field(default=None, metadata={"help": "default: the accelerator, or the CPU without one"})
    output: str | None = field(
        default=None, metadata={"help": "folder for a copy of the SeTok with S; default: itself"}
    )


def draw_pictures(folder: str, num_images: int, seed: int) -> list[str]:
    """Paths of `num_images` pictures of a folder and those in it, all different; of all where there are fewer.

    Raises:
        ValueError: there is no picture, or `num_images` is below 1.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}.")
    paths = [str(Path(folder, file)) for file in pictures_in(Path(folder))]
    chosen = np.random.default_rng(seed).permutation(len(paths))[:num_images]
    return [paths[index] for index in sorted(chosen)]


def batches_of_pixels(
    image_processor: SetokImageProcessor, paths: list[str], batch_size: int
) -> Iterator[torch.Tensor]:
    """Pixel values (B, 3, H, W); one by one where the processor keeps sizes, so that nothing is padded."""
    step = 1 if "pixel_mask" in image_processor(paths[0]) else batch_size
    for start in tqdm(range(0, len(paths), step), desc="batches", leave=False):
        yield image_processor(paths[start : start + step], return_tensors="pt")["pixel_values"]


def write_scale(folder: Path, scales: dict[str, torch.Tensor]) -> None:
    """Puts buffers of the clustering, by their names, into the weights of a folder; no other tensor changes.

    Raises:
        ValueError: the folder has no safetensors, or no such buffers in them.
    """
    missing = set(scales)
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata, names = file.metadata(), list(file.keys())
        found = {key: name for key in names for name in scales if key.split(".")[-2:] == ["token_clustering", name]}
        if found:
            tensors = load_file(path)
            save_file(tensors | {key: scales[name].cpu() for key, name in found.items()}, path, metadata)
            missing -= set(found.values())
    if missing:
        raise ValueError(
            f"The weights in {folder} have no {', '.join(sorted(missing))}: save the model again with save_pretrained."
        )


def calibrate(arguments: Arguments) -> float:
    """S of the pictures; written where the model is a SeTok.

    Raises:
        ValueError: arguments that do not go together, and see `draw_pictures`, `load_setok` and `write_scale`.
    """
    is_setok = holds_setok(arguments.model)
    if is_setok and arguments.layer is not None:
        raise ValueError("A SeTok's layer is vision_feature_layer of its config: leave --layer out.")
    if not is_setok and arguments.output is not None:
        raise ValueError("A vision encoder has no place for S: leave --output out, or give the folder of a SeTok.")
    if arguments.output is not None and Path(arguments.output).exists():
        raise ValueError(f"{arguments.output} is there already: name a folder that is not, or leave --output out.")
    paths = draw_pictures(arguments.data, arguments.num_images, arguments.seed)
    layer = -1 if arguments.layer is None else arguments.layer
    # Of a SeTok around an encoder only the clustering is needed
    config = SetokConfig(vision_feature_layer=layer, num_inner_layers=0, num_inter_layers=0)
    model, image_processor = load_setok(arguments.model, config)
    model = model.to(choose_device(arguments.device))
    scale = model.calibrate(
        pixels.to(model.dtype) for pixels in batches_of_pixels(image_processor, paths, arguments.batch_size)
    )
    if is_setok:
        folder = Path(arguments.output or arguments.model)
        if arguments.output is not None:
            shutil.copytree(arguments.model, folder)
        write_scale(folder, dict(model.token_clustering.named_buffers()))
    print(f"S = {scale:.6f}, of {len(paths)} pictures" + (f", written to {folder}" if is_setok else ""))
    return scale


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    try:
        calibrate(arguments)
    except ValueError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
