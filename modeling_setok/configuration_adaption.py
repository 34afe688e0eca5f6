"""The settings of concept tokens in a model of transformers, and which models can have them."""

import inspect
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from .large_clusters import check_largest_share
from .patch_features import placeholder_id

OF_CLUSTERING = (
    "num_neighbors", "criterion", "threshold", "max_tokens", "fixed_tokens", "assignment", "scale", "largest_share"
)  # fmt: skip


@dataclass
class ConceptTokenSettings:
    """What `add_concept_tokens` was asked for; `config.concept_tokens` holds it as a dictionary.

    The first six are those of `cluster_tokens`, with `num_neighbors` after each image's number of patches and no limit
    of tokens by default; `largest_share` is that of `split_large_clusters`, by default any; `scale` is what
    `calibrate_concept_tokens` measured.
    """

    num_neighbors: int | None = None
    criterion: str = "relative"
    threshold: float | None = None
    max_tokens: int | None = None
    fixed_tokens: int | None = None
    assignment: str = "chain"
    largest_share: float | None = None
    features: str = "projected"
    across_tiles: bool = True
    tile_separators: tuple[int, ...] = ()
    token_weight: str = "size"
    scale: float | None = None

    def __post_init__(self):
        self.tile_separators = tuple(self.tile_separators)
        for name, allowed in (("features", ("projected", "encoder")), ("token_weight", ("size", "none"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}.")
        check_largest_share(self.largest_share, self.fixed_tokens)

    def of_clustering(self) -> dict[str, Any]:
        """Those of `concept_clusters`."""
        return {name: getattr(self, name) for name in OF_CLUSTERING}


def check_family(model: PreTrainedModel) -> None:
    """Raises a `ValueError` where a model has no place in which its patches can become fewer."""
    name, base = type(model).__name__, model.base_model
    reason = None
    if not isinstance(model, PreTrainedModel) or base is model:
        reason = "it is no model with a head around a base model, such as LlavaForConditionalGeneration"
    elif model.config.model_type == "setokim":
        reason = "its SeTok gives it concept tokens already"
    elif model.config.is_encoder_decoder:
        reason = "its text is decoded against an encoder's, not beside its patches"
    elif not hasattr(base, "get_image_features"):
        reason = "its base model has no get_image_features"
    elif "mm_encoder_outputs" not in inspect.signature(base.forward).parameters:
        reason = "its base model takes no mm_encoder_outputs, so that its patches cannot be replaced"
    elif type(model.get_decoder()) is type(base):
        reason = "its language model is not a module of its own"
    if reason:
        raise ValueError(f"{name} cannot have concept tokens: {reason}.")
    placeholder_id(model.config, "image")


def check_attention(model: PreTrainedModel, settings: ConceptTokenSettings) -> None:
    """Raises a `ValueError` where the attention of the language model cannot weigh tokens as the settings ask."""
    decoder = model.get_decoder()
    attention = decoder.config._attn_implementation
    if settings.token_weight == "none" or (attention in ("sdpa", "eager") and decoder._supports_sdpa):
        return
    raise ValueError(
        f"The language model {type(decoder).__name__} with attn_implementation={attention!r} cannot add the weight of "
        'a token to its attention. Load it with attn_implementation="sdpa" where it has that, or use '
        'token_weight="none", which needs training.'
    )
