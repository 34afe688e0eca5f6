"""Configuration of SeTok: vision encoder, token clustering, token merger and detokenizer."""

import math

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises a `ValueError` that names the value unless it is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raises a `ValueError` that names the value unless it is at least `least`, which NaN is not."""
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")


def check_positive(name: str, value: float) -> None:
    """Raises a `ValueError` that names the value unless it is above 0."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}.")


def check_finite(config: PreTrainedConfig) -> None:
    """Raises a `ValueError` that names the value if a setting is NaN or infinite."""
    for name, value in vars(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}.")


def check_activation(name: str, value: str) -> None:
    """Raises a `ValueError` that names the value unless transformers knows such an activation."""
    if value not in ACT2FN:
        raise ValueError(f"{name} must be an activation of transformers, one of {', '.join(ACT2FN)}, got {value!r}.")


@strict
class SetokDetokenizerConfig(PreTrainedConfig):
    """Configuration of [`SetokDetokenizer`] (§2.1, Appendix D.1): mask tokens query the concept tokens, a CNN paints.

    The painted image has `grid_size * 2 ** (len(decoder_channels) - 1)` pixels on a side, or `grid_size * patch_size`.

    Args:
        hidden_size: width of the mask tokens.
        num_hidden_layers: L, blocks of self-attention over the grid, cross-attention to the tokens and an MLP.
        grid_size: mask tokens on a side; need not be the encoder's grid.
        decoder_channels: channels of the CNN at each resolution, coarse to fine; every further entry doubles the size.
        decoder_blocks: residual blocks at each resolution.
        patch_size: pixels on a side of a cell, even; goes with `map_size`.
        map_size: goes with `patch_size`. If given, no CNN, which the paper has: a linear map paints each cell, and each
            token unfolds into a little map of so many knots on a side, which is laid over the cells where the token
            belongs (see token_maps.py). This learns many times faster.
        map_hidden_size: width of the MLPs that unfold a token and tell where it lies.
        token_noise: standard deviation, in units of the tokens' own, of Gaussian noise added to the tokens in training,
            which makes the detokenizer forgive tokens that a generator sampled.
    """

    model_type = "setok_detokenizer"
    base_config_key = "detokenizer_config"

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    rope_theta: float = 100.0
    grid_size: int = 24
    decoder_channels: list[int] | tuple[int, ...] = (512, 256, 256, 128, 128)
    decoder_blocks: int = 2
    patch_size: int | None = None
    map_size: int | None = None
    map_hidden_size: int = 512
    token_noise: float = 0.0
    initializer_range: float = 0.02

    @property
    def image_size(self) -> int:
        """Side in pixels of the painted image."""
        return self.grid_size * (self.patch_size or 2 ** (len(self.decoder_channels) - 1))

    def validate_sizes(self):
        _check_transformer(self)
        for name in ("num_hidden_layers", "grid_size", "decoder_blocks"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("the number of decoder_channels", len(self.decoder_channels), 1)
        check_at_least("the smallest of decoder_channels", min(self.decoder_channels), 1)
        check_at_least("token_noise", self.token_noise, 0)
        check_at_least("map_hidden_size", self.map_hidden_size, 1)
        if (self.patch_size is None) != (self.map_size is None):
            raise ValueError(
                f"patch_size and map_size go together, got {self.patch_size} and {self.map_size}: give both, or "
                "neither for the CNN."
            )
        if self.map_size is not None:
            check_at_least("patch_size", self.patch_size, 2)
            check_at_least("map_size", self.map_size, 2)
            if self.patch_size % 2:
                raise ValueError(f"patch_size must be even, got {self.patch_size}: maps have half the pixels.")


def _check_transformer(config) -> None:
    check_finite(config)
    check_activation("hidden_act", config.hidden_act)
    for name in ("layer_norm_eps", "rope_theta"):
        check_positive(name, getattr(config, name))
    check_at_least("initializer_range", config.initializer_range, 0)
    for name in ("hidden_size", "intermediate_size", "num_attention_heads"):
        check_at_least(name, getattr(config, name), 1)
    if config.hidden_size % (4 * config.num_attention_heads):
        raise ValueError(
            f"hidden_size ({config.hidden_size}) must be a multiple of 4 * num_attention_heads "
            f"({config.num_attention_heads}): 2D rotary positions use pairs of channels for each of two axes."
        )


@strict
class SetokConfig(PreTrainedConfig):
    """Configuration of [`SetokModel`] and [`SetokForPreTraining`]; the defaults are the paper's model (Appendix D.1).

    Args:
        vision_config: any vision model of transformers, or a two-tower model, whose vision half is taken; default the
            architecture of SigLIP-SO400M-patch14-384.
        detokenizer_config: see [`SetokDetokenizerConfig`].
        text_config: the frozen text encoder of the contrastive loss, any text model of transformers; `None` where text
            features are computed outside and kept as the concept bank.
        vision_feature_layer: which of the encoder's hidden states the patch embeddings are, as in LLaVA. An encoder of
            n layers has n + 1: 0 is the embeddings, k what layer k gives; negative ones count from the end, -1 being
            what the last layer gives. The encoder's last norm is applied whichever it is (LLaVA applies none). Of a
            hierarchical encoder (ConvNeXt, ResNet) k is the feature map of stage k, with its own grid and width, and
            the norm, which fits no stage but the last, is left out of the others. Layers after the one chosen run but
            are not trained. A list of them merges all, side by side, and clusters the last named: of a frozen encoder
            an early layer keeps the pixels and a late one the concepts.
        hidden_size: D, the dimension of a concept token.
        num_inner_layers, num_inter_layers: depth of the inner-cluster and inter-cluster transformers; 0 leaves one out
            (ablations of Table 6).
        merger: `"transformer"`, or `"mean"`: the mean of each cluster's projected patches (ablation of Table 6).
        use_position_embeddings: 2D positions in the merger (ablation of Table 6).
        use_extent_embeddings: each token is told, before the inter-cluster transformer, where the middle of its cluster
            lies and how wide that is (not in the paper): with positions alone it has to be read off a mean of many.
        pack_clusters: run the inner transformer over patches packed by cluster; `False` uses one block-diagonal mask
            over the image, the slower reference.
        num_neighbors, criterion, threshold, assignment, max_tokens, fixed_tokens, token_order: see
            [`cluster_tokens`](density_peaks.py).
        background_norm: for encoders that mark empty background by short embeddings (a CNN without a final norm): a
            constant channel of this many mean embedding lengths is appended before directions are compared, so that
            such patches count as alike. 0 leaves it out.
        assignment_mode: `"hard"` or `"soft"` concept masks (Table 5).
        straight_through: in training, hard masks with the gradient of the soft ones.
        soft_sharpness, soft_threshold, soft_penalty, soft_temperature: see [`soft_token_masks`](concept_masks.py).
        projection_dim: dimension of the joint space of concept tokens and text.
        text_feature_dim: dimension of the text features; read from `text_config` where there is one.
        concept_names: names whose text features are kept with the weights (the concept bank), so that these concepts
            can be trained on and recognised without a text encoder.
        contrastive_form: `"log_of_sum"`, Eqs. 5-6 as printed: the concepts of an image share one logarithm, so that one
            of them may stand for all. `"sum_of_logs"`: every concept has to be found.
        reconstruction_weight, contrastive_weight: alpha and beta of Eq. 3.
        placement_weight: weight of a further loss, not in the paper: that a token tells the detokenizer which cells of
            its grid it covers. 0 leaves it out. On a small budget, reconstruction alone paints only the background.
        logit_scale_init: log of the initial inverse temperature.
    """

    model_type = "setok"
    keys_to_ignore_at_inference = ["setok_output", "grid_size"]  # their lengths differ from batch to batch
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="siglip_vision_model",
            init_kwargs={
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "image_size": 384,
                "patch_size": 14,
                "vision_use_head": False,
            },
        ),
        "detokenizer_config": SubConfigSpec(config_class=SetokDetokenizerConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_text_model", optional=True),
    }

    vision_config: dict | PreTrainedConfig | None = None
    detokenizer_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None

    vision_feature_layer: int | list[int] = -1
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_inner_layers: int = 12
    num_inter_layers: int = 8
    num_attention_heads: int = 8
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    rope_theta: float = 100.0
    merger: str = "transformer"
    use_position_embeddings: bool = True
    use_extent_embeddings: bool = False
    pack_clusters: bool = True

    num_neighbors: int = 6
    criterion: str = "relative"
    threshold: float | None = None
    assignment: str = "chain"
    max_tokens: int = 64
    fixed_tokens: int | None = None
    token_order: str = "score"
    background_norm: float = 0.0
    assignment_mode: str = "hard"
    straight_through: bool = False
    soft_sharpness: float = 2.0
    soft_threshold: float = 0.5
    soft_penalty: float = 0.0
    soft_temperature: float = 0.2

    projection_dim: int = 512
    text_feature_dim: int = 1152
    concept_names: list[str] | None = None
    contrastive_form: str = "log_of_sum"
    reconstruction_weight: float = 1.0
    contrastive_weight: float = 1.0
    placement_weight: float = 0.0
    logit_scale_init: float = 2.6592  # log(1 / 0.07)
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if isinstance(self.text_config, dict) and "model_type" not in self.text_config:
            raise ValueError('text_config needs a "model_type", such as "clip_text_model" or "bert".')
        super().__post_init__(**kwargs)
        for name in ("vision_config", "text_config"):  # of a two-tower model (CLIP, SigLIP) its half
            config = getattr(self, name)
            setattr(self, name, getattr(config, name, config))
        if getattr(self.vision_config, "vision_use_head", False):
            self.vision_config.vision_use_head = False  # its parameters would never get a gradient
        if self.text_config is not None:
            self.text_feature_dim = getattr(self.text_config, "projection_size", self.text_config.hidden_size)

    def validate_choices(self):
        check_choice("merger", self.merger, ("transformer", "mean"))
        if self.use_extent_embeddings and self.merger != "transformer":
            raise ValueError('use_extent_embeddings needs merger="transformer": the mean is the baseline of the paper.')
        check_choice("criterion", self.criterion, ("relative", "product"))
        check_choice("assignment", self.assignment, ("chain", "nearest"))
        check_choice("token_order", self.token_order, ("score", "raster", "top_down"))
        check_choice("assignment_mode", self.assignment_mode, ("hard", "soft"))
        check_choice("contrastive_form", self.contrastive_form, ("log_of_sum", "sum_of_logs"))
        if self.straight_through and self.assignment_mode == "soft":
            raise ValueError('straight_through lends soft gradients to hard masks: use it with assignment_mode="hard".')

    def validate_concept_names(self):
        repeated = sorted({name for name in self.concept_names or () if self.concept_names.count(name) > 1})
        if repeated:
            raise ValueError(f"concept_names must not repeat: {repeated}.")

    def validate_sizes(self):
        _check_transformer(self)
        if isinstance(self.vision_feature_layer, list):
            check_at_least("the number of layers in vision_feature_layer", len(self.vision_feature_layer), 1)
        for name in ("num_neighbors", "max_tokens", "projection_dim", "text_feature_dim"):
            check_at_least(name, getattr(self, name), 1)
        weights = ("reconstruction_weight", "contrastive_weight", "placement_weight")
        for name in ("num_inner_layers", "num_inter_layers", "background_norm", *weights):
            check_at_least(name, getattr(self, name), 0)
        if self.fixed_tokens is not None:
            check_at_least("fixed_tokens", self.fixed_tokens, 1)
        for name in ("soft_sharpness", "soft_temperature"):
            check_positive(name, getattr(self, name))
