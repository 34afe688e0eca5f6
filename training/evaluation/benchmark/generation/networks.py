"""The networks that judge pictures, whatever the command line names. A figure bears the name of what it was measured
with: Inception, the encoder of --features, the CLIP of --clip, LPIPS with VGG."""

import warnings
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.generation.pictures import to_picture
from training.evaluation.metrics import FrechetDistance
from training.losses import PerceptualLoss

INCEPTION = "inception"  # names FID's own network in place of a folder
CLASS_TOKENS = ("cls_token", "class_embedding")


class PictureEncoder(nn.Module):
    """Features (B, D) float32 of pictures by a vision model of transformers and its image processor: of a two-tower
    model (CLIP, SigLIP) those that it compares with texts, else the class token after the last layer, else the mean
    over the positions."""

    def __init__(self, model: nn.Module, image_processor):
        super().__init__()
        self.model, self.image_processor = model.eval(), image_processor
        names = (name.rsplit(".", 1)[-1] for name, _ in model.named_parameters())
        self._has_class_token = any(name in CLASS_TOKENS for name in names)

    @classmethod
    def from_pretrained(cls, name: str, device: str | torch.device = "cpu") -> "PictureEncoder":
        """Of a folder or Hub id.

        Raises:
            ValueError: the model lacks weights.
        """
        return cls(_load(name, device), AutoImageProcessor.from_pretrained(name))

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Of PIL pictures."""
        pixel_values = self.image_processor(list(pictures), return_tensors="pt")["pixel_values"]
        pixel_values = pixel_values.to(self.model.device, self.model.dtype)
        if hasattr(self.model, "get_image_features"):
            return _pooled(self.model.get_image_features(pixel_values=pixel_values))
        states = self.model(pixel_values=pixel_values).last_hidden_state.float()
        if states.ndim == 4:  # a feature map (B, D, h, w)
            return states.mean((2, 3))
        return states[:, 0] if self._has_class_token else states.mean(1)

    def forward(self, images: Tensor) -> Tensor:
        """Of tensors (B, 3, H, W) in [0, 1]."""
        return self.encode([to_picture(image) for image in images])


class Clip(PictureEncoder):
    """Features of pictures and of texts, in one space."""

    def __init__(self, model: nn.Module, image_processor, tokenizer):
        super().__init__(model, image_processor)
        self.tokenizer = tokenizer
        self._longest = model.config.text_config.max_position_embeddings

    @classmethod
    def from_pretrained(cls, name: str, device: str | torch.device = "cpu") -> "Clip":
        model = _load(name, device)
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise ValueError(f"--clip names {name}, which does not compare pictures with texts: name a CLIP or SigLIP.")
        return cls(model, AutoImageProcessor.from_pretrained(name), AutoTokenizer.from_pretrained(name))

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """(B, D) float32. What is longer than the model reads is cut, with a warning."""
        if cut := sum(len(ids) > self._longest for ids in self.tokenizer(list(texts))["input_ids"]):
            warnings.warn(f"{cut} texts are cut to the {self._longest} tokens that this CLIP reads.", stacklevel=2)
        inputs = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._longest, return_tensors="pt"
        )
        return _pooled(self.model.get_text_features(**inputs.to(self.model.device)))


def frechet_distances(networks: Networks) -> dict[str, FrechetDistance]:
    """To the name of a figure what measures it: "fid_inception", "fd_encoder", or none.

    Raises:
        ValueError: Inception is named, and its package is not there.
    """
    if networks.features is None:
        return {}
    if networks.features != INCEPTION:
        return {"fd_encoder": FrechetDistance(PictureEncoder.from_pretrained(networks.features, networks.device))}
    try:
        return {"fid_inception": FrechetDistance()}
    except ModuleNotFoundError as error:
        raise ValueError(
            "--features inception needs the package torch-fidelity (pip install torch-fidelity), which fetches the "
            "weights when it is first used; or name the folder or Hub id of a vision encoder of transformers."
        ) from error


def perceptual_distances(networks: Networks) -> Callable[[Tensor, Tensor], Tensor] | None:
    """LPIPS with VGG16: two batches of images (B, 3, H, W) in [0, 1] -> (B,); `None` where it is not named."""
    if networks.lpips is None:
        return None
    loss = PerceptualLoss.lpips(networks.lpips).to(networks.device)
    return lambda *images: loss.distances(*(2 * image - 1 for image in images))


def _load(name: str, device: str | torch.device) -> nn.Module:
    model, loading = AutoModel.from_pretrained(name, output_loading_info=True)
    if missing := sorted(key for key in loading["missing_keys"] if "pooler" not in key):  # which is not run
        raise ValueError(f"{name} lacks weights, such as {missing[0]}: name a whole model.")
    return model.to(device)


def _pooled(features) -> Tensor:
    return getattr(features, "pooler_output", features).float()
