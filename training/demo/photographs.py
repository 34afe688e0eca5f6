"""What a SeTok around an encoder of photographs makes of them: concept tokens, over the picture in its own sharpness.

No names and no painting: the shipped models have learned both from drawings. What is a thing of its own they need not
learn: the clustering has no parameters, and the encoder has seen photographs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modeling_setok import SetokForPreTraining, cluster_tokens
from modeling_setok.density_peaks import feature_scale, unit_directions
from modeling_setok.vision_encoder import clustered_layer_of, encode_layers
from processing import SetokImageProcessor, draw_concept_tokens, side_by_side
from training.demo.pictures import Picture, count

LAYERS = (2, 5, 8, 11, 12)  # hidden states that can be clustered in place of the model's own, where there are so many
NEIGHBORS, PATCHES = 16, 37 * 37  # K that suits a grid of so many patches; on others it grows with their number
FINER = 2  # the third picture of a row has a K so much smaller
LARGEST_SHOWN, SMALLEST_SHOWN = 1024, 512  # the longest side of a photograph as it is shown, in pixels ...
THINNEST_SHOWN = 64  # ... and its shortest
NOTE = (
    "No token of a photograph is named: this model has learned its names from drawings, and they do not hold for "
    "photographs. The encoder is frozen, and the tokens are found without any training."
)


@dataclass(frozen=True)
class Patches:
    """The patch embeddings of a photograph, {layer: (1, h * w, width)}, and their grid (h, w)."""

    layers: Mapping[int, Tensor]
    grid_size: tuple[int, int]

    @property
    def number(self) -> int:
        return self.grid_size[0] * self.grid_size[1]

    @property
    def num_neighbors(self) -> int:
        """K that suits the grid."""
        return max(4, round(self.number * NEIGHBORS / PATCHES))


@dataclass(frozen=True)
class Tokens:
    """cluster_ids: (h * w,) int64, the token of each patch of a grid (h, w)."""

    cluster_ids: np.ndarray
    grid_size: tuple[int, int]

    @property
    def number(self) -> int:
        return int(self.cluster_ids.max()) + 1

    @property
    def counts(self) -> str:
        return f"{count(self.number, 'concept token')} for {count(self.cluster_ids.size, 'patch', 'patches')}"


@dataclass(frozen=True)
class PhotographModel:
    """A SeTok, and what photographs need beside it. Nothing of it changes when it is used.

    Attributes:
        scales: S of layers that are not the model's own; where there is none, a picture's own S.
    """

    model: SetokForPreTraining
    image_processor: SetokImageProcessor
    scales: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self):
        encoder = self.model.config.vision_config
        if not all(isinstance(getattr(encoder, name, None), int) for name in ("image_size", "patch_size")):
            raise ValueError(
                "photographs need an encoder of one image_size and patch_size, such as DINOv2, and "
                f"{encoder.model_type} is none"
            )

    @property
    def own_layer(self) -> int:
        """Number of the hidden state of the encoder that the model clusters, to which its saved S belongs."""
        return clustered_layer_of(self.model.config)

    @property
    def layers(self) -> list[int]:
        """Of the hidden states those that can be clustered."""
        return sorted({self.own_layer, *(n for n in LAYERS if n <= self.model.config.vision_config.num_hidden_layers)})

    @torch.no_grad()
    def encode(self, image: Image.Image, layers: Sequence[int] | None = None) -> Patches:
        """Runs the encoder on a photograph in its own aspect ratio, as large as the encoder was made for.

        Args:
            layers: by default the model's own.
        """
        layers = [self.own_layer] if layers is None else list(layers)
        setok, config = self.model.setok, self.model.config
        encoder = config.vision_config
        pixel_values = self.image_processor(
            image,
            size={"longest_edge": encoder.image_size - encoder.image_size % encoder.patch_size},
            size_divisor=encoder.patch_size,
            return_tensors="pt",
        )["pixel_values"].to(self.model.device, self.model.dtype)
        return Patches(*encode_layers(setok.vision_encoder, config, pixel_values, layers))

    def with_scales_of(self, photographs: Sequence[Picture]) -> "PhotographModel":
        """The same with the mean S of these photographs for all layers but the model's own, which knows its S."""
        others = [layer for layer in self.layers if layer != self.own_layer]
        encoded = [self.encode(picture.image, others).layers for picture in photographs]
        scales = {
            layer: [float(feature_scale(*unit_directions(patches[layer]))) for patches in encoded] for layer in others
        }
        return replace(self, scales={layer: sum(own) / len(own) for layer, own in scales.items()})

    def scale_of(self, layer: int) -> float | None:
        """S of a layer; `None` where it is each picture's own."""
        if layer == self.own_layer:
            return float(self.model.setok.token_clustering.feature_scale) or None
        return self.scales.get(layer)

    @torch.no_grad()
    def cluster(self, patches: Patches, num_neighbors: int | None = None, layer: int | None = None) -> Tokens:
        """The tokens of a photograph.

        Args:
            num_neighbors: K, the size in patches of the smallest thing that may get a token of its own; by default what
                suits the grid.
            layer: one that was encoded; by default the model's own.
        """
        layer = self.own_layer if layer is None else layer
        clustering, config = self.model.setok.token_clustering, self.model.config
        clusters = cluster_tokens(
            clustering.clustering_features(patches.layers[layer]),
            num_neighbors=patches.num_neighbors if num_neighbors is None else num_neighbors,
            criterion=config.criterion,
            threshold=config.threshold,
            scale=self.scale_of(layer),
            assignment=config.assignment,
            max_tokens=config.max_tokens,
        )
        return Tokens(clusters.cluster_ids[0].cpu().numpy(), patches.grid_size)


def draw_tokens(image: Image.Image, tokens: Tokens) -> Image.Image:
    """The photograph with its tokens, numbered, and without names."""
    return draw_concept_tokens(_as_shown(image), tokens.cluster_ids, tokens.grid_size, sharp=True)


def draw_row(photographs: PhotographModel, picture: Picture) -> tuple[Image.Image, str]:
    """The photograph, its tokens, and its finer ones, beside each other; also what is told about them."""
    patches = photographs.encode(picture.image)
    finer_neighbors = max(2, patches.num_neighbors // FINER)
    tokens, finer = photographs.cluster(patches), photographs.cluster(patches, finer_neighbors)
    drawn = [draw_tokens(picture.image, tokens), draw_tokens(picture.image, finer)]
    original = _as_shown(picture.image).resize(drawn[0].size, Image.Resampling.LANCZOS)
    told_finer = f"finer (K = {finer_neighbors} instead of {patches.num_neighbors}): {finer.number}"
    row = side_by_side([original, *drawn], [picture.title, tokens.counts, told_finer])
    return row, f"  {picture.title}: {tokens.counts}; {told_finer}"


def told_of_scale(photographs: PhotographModel, layer: int) -> str:
    """Where S of this layer, to which distances are relative, comes from."""
    scale = photographs.scale_of(layer)
    if scale is None:
        return f"Clustered: layer {layer}, with S, the scale of distances, of this picture alone."
    measured = "which the model was calibrated to" if layer == photographs.own_layer else "the mean of the examples'"
    return f"Clustered: layer {layer}, with S, the scale of distances, {scale:.2f}, {measured}."


def _as_shown(image: Image.Image) -> Image.Image:
    """In its own sharpness, but no larger or smaller than pictures are shown; a very thin one becomes thicker."""
    longest = max(image.size)
    scale = min(max(longest, SMALLEST_SHOWN), LARGEST_SHOWN) / longest
    size = tuple(max(THINNEST_SHOWN, round(side * scale)) for side in image.size)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
