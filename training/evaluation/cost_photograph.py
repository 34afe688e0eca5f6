"""What tokenising one photograph costs beside its vision encoder alone, at several sizes: peak memory and time.

    python -m training.evaluation.cost_photograph --model FOLDER                        # of a SeTok or an encoder
    python -m training.evaluation.cost_photograph --model FOLDER --keep_aspect_ratio    # sizes are longest edges

Every figure is of a process of its own, which loads the model and runs nothing else: its peak is how far its resident
memory rose above that after loading and a first small picture. Around an encoder the merger is the paper's, with random
weights. The ratios are SeTok, encoder included, to the encoder.
"""

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser

from processing import SetokImageProcessor
from training.evaluation.any_setok import holds_setok, load_setok


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder of a SeTok, or of a vision encoder"})
    sizes: list[int] = field(
        default_factory=lambda: [224, 518, 1024], metadata={"help": "sides in pixels; rounded down to whole patches"}
    )
    picture: str | None = field(default=None, metadata={"help": "a file; default: scikit-image's cup of coffee"})
    keep_aspect_ratio: bool = field(default=False, metadata={"help": "the whole picture instead of a square of it"})
    repeats: int = field(default=3, metadata={"help": "timed runs, of which the best counts"})
    part: str | None = field(default=None, metadata={"help": "measure 'encoder' or 'setok' alone, in this process"})


@torch.no_grad()
def measure(arguments: Arguments, size: int) -> dict[str, float]:
    """Seconds, MiB at the peak, rows and columns of patches, and tokens (0 of an encoder) of one part at one size."""
    model, processor = load_setok(arguments.model)
    patch_size = model.config.vision_config.patch_size
    pixels = _pixels(processor, arguments, size, patch_size).to(model.dtype)
    run = model if arguments.part == "setok" else model.get_patch_embeddings
    run(pixels[..., : 4 * patch_size, : 4 * patch_size])
    _forget_peak()
    before, seconds = _peak_memory(), []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        outputs = run(pixels)
        seconds.append(time.perf_counter() - start)
    tokens, (height, width) = (
        (0, outputs[1]) if arguments.part == "encoder" else (int(outputs.num_tokens), outputs.grid_size)
    )
    peak = _peak_memory() - before
    return {"seconds": min(seconds), "mib": peak, "height": height, "width": width, "tokens": tokens}


def _pixels(processor: SetokImageProcessor, arguments: Arguments, size: int, patch_size: int) -> torch.Tensor:
    if arguments.picture is None:
        from skimage import data

        picture = data.coffee()  # 400 x 600
    else:
        picture = arguments.picture
    side = size // patch_size * patch_size
    if side == 0:
        raise ValueError(f"{size} pixels are less than a patch of {patch_size}: give larger --sizes.")
    geometry = {"size": {"shortest_edge": side}, "do_center_crop": True, "crop_size": {"height": side, "width": side}}
    if arguments.keep_aspect_ratio:
        geometry = {"size": {"longest_edge": side}, "size_divisor": patch_size, "do_center_crop": False}
    return processor(picture, **geometry)["pixel_values"]


def _forget_peak() -> None:
    """Loading a model takes more for a moment than it keeps, which would hide what a small picture takes."""
    if sys.platform == "linux":  # see proc(5); elsewhere the figures of small pictures are too low
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> float:
    """MiB that this process had resident at most since `_forget_peak`."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _measure_apart(arguments: Arguments, part: str, size: int) -> dict[str, float]:
    """`measure`, in a process of its own."""
    command = [sys.executable, "-m", "training.evaluation.cost_photograph", "--model", arguments.model]
    command += ["--part", part, "--sizes", str(size), "--repeats", str(arguments.repeats)]
    command += ["--picture", arguments.picture] if arguments.picture is not None else []
    command += ["--keep_aspect_ratio"] if arguments.keep_aspect_ratio else []
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise ValueError(f"The {part} could not be measured at {size} px:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def print_costs(arguments: Arguments) -> None:
    print(f"{'pixels':>8}{'patches':>11}{'tokens':>8}{'encoder':>12}{'SeTok':>12}{'ratio':>7}", end="")
    print(f"{'encoder':>14}{'SeTok':>12}{'ratio':>7}")
    for size in arguments.sizes:
        encoder, setok = (_measure_apart(arguments, part, size) for part in ("encoder", "setok"))
        patches = f"{setok['height']} x {setok['width']}"
        print(
            f"{size:>8}{patches:>11}{setok['tokens']:>8}{encoder['seconds']:>10.2f} s{setok['seconds']:>10.2f} s",
            end="",
        )
        print(
            f"{setok['seconds'] / encoder['seconds']:>7.2f}{encoder['mib']:>10.0f} MiB{setok['mib']:>8.0f} MiB", end=""
        )
        print(f"{setok['mib'] / max(encoder['mib'], 1):>7.2f}")


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    try:
        if arguments.part is None:
            holds_setok(arguments.model)
            print_costs(arguments)
        else:
            print(json.dumps(measure(arguments, arguments.sizes[0])))
    except ValueError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
