"""The Adaption of SeTok: concept tokens for a vision-language model of transformers that you already have.

The projected patches of an image are clustered by density peaks, and each concept token is the mean of its cluster, at
the place of its seed: fewer visual tokens, each with a mask. Nothing is trained.

`add_concept_tokens` gives the model and its base model a class of the same name with these changes, and nothing else:

* base model: patches become tokens before the language model; its hidden states come back at the full length, each
  place without a token with the state of the token before it, so that losses, labels and heads stay as they are;
* model: `generate` runs on the short prompt, and gives back sequences that begin with the full one;
* language model: a token counts as often as its patches (size_aware_attention.py).

The number of patches of each token travels in the attention mask: an entry of n > 1 is a token for n patches. Whatever
generation does with rows (beams, several sequences, a cache of fixed size), it does with the mask.
"""

import functools
import inspect
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from .density_peaks import TokenClusters, feature_scale, unit_directions
from .patch_features import compared_features, encoded_patches, flat_features, placeholder_id, repeated_output
from .patch_sets import ConceptMeans, concept_clusters
from .short_inputs import ShortInputs, shortened
from .size_aware_attention import SIZE_AWARE_ATTENTION, key_sizes


@dataclass
class ConceptTokenSettings:
    """What `add_concept_tokens` was asked for; `config.concept_tokens` holds it as a dictionary.

    The first six are those of `cluster_tokens`, with `num_neighbors` after each image's number of patches and no limit
    of tokens by default; `scale` is what `calibrate_concept_tokens` measured.
    """

    num_neighbors: int | None = None
    criterion: str = "relative"
    threshold: float | None = None
    max_tokens: int | None = None
    fixed_tokens: int | None = None
    assignment: str = "chain"
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


def add_concept_tokens(model: PreTrainedModel, **settings) -> PreTrainedModel:
    """Gives the language model of a vision-language model concept tokens in place of all patches; returns the model.

    It changes `model` itself, which goes on as before in every other respect: forward with labels, `generate`,
    pipelines, trainers, PEFT, saving. `model.config.concept_tokens` holds the settings, so that a saved folder, which
    brings this code along, loads as such by `from_pretrained(..., trust_remote_code=True)`.

    Args:
        num_neighbors, criterion, threshold, max_tokens, fixed_tokens, assignment: see `cluster_tokens`.
        features: `"projected"`: the patches as the language model gets them are compared. `"encoder"`: as the vision
            model gives them, before the connector, where there are as many.
        across_tiles: tiles of one image, whose placeholders follow each other, are clustered together.
        tile_separators: ids of tokens that may stand between the tiles of one image.
        token_weight: `"size"`: attention counts a token as often as its patches. `"none"`: once.

    Raises:
        ValueError: the model has no place where its patches can become fewer, or an attention that cannot weigh them;
            the message says which.
    """
    if isinstance(model, ConceptTokensModel):
        raise ValueError("The model has concept tokens already: call remove_concept_tokens first to change settings.")
    settings = ConceptTokenSettings(**settings)
    _check_family(model)
    _check_attention(model, settings)
    model.config.concept_tokens = asdict(settings)
    _change_class(model, _with_concept_tokens(type(model)))
    _install(model)
    return model


def remove_concept_tokens(model: PreTrainedModel) -> PreTrainedModel:
    """Undoes `add_concept_tokens`: the model has all its patches again. Returns the model."""
    if not isinstance(model, ConceptTokensModel):
        raise ValueError("The model has no concept tokens to remove.")
    decoder = model.get_decoder()
    if decoder.config._attn_implementation == SIZE_AWARE_ATTENTION:
        decoder.config._attn_implementation_internal = model.base_model.attention_before
    for module in (model.base_model, model):
        _change_class(module, type(module).without_concept_tokens)
    del model.config.concept_tokens
    return model


class ConceptTokensBaseModel:
    """Mixed into the base model: the class that joins patches and text."""

    last_seen: dict[str, tuple[ConceptMeans, list[tuple[int, ...]]]] = {}  # by modality, see concept_maps

    def forward(self, *args, **kwargs):
        inputs = inspect.signature(super().forward).bind(*args, **kwargs).arguments
        inputs |= inputs.pop("kwargs", {})
        if getattr(inputs.get("past_key_values"), "has_concept_tokens", False) and inputs.get("position_ids") is None:
            raise ValueError("Go on with generate(): a cache with concept tokens is shorter than the text it holds.")
        short = self.shorten(inputs)
        if short is None:
            return self._forward_weighed(inputs)
        outputs = self._forward_weighed(short.inputs)
        if getattr(outputs, "past_key_values", None) is not None:
            outputs.past_key_values.has_concept_tokens = short.columns.num_removed > 0
        states = short.columns.full(outputs[0])
        if isinstance(outputs, tuple):
            return (states, *outputs[1:])
        outputs.last_hidden_state = states
        return outputs

    def shorten(self, inputs: dict[str, Any], **options) -> ShortInputs | None:
        """`shortened` with the model's settings; remembers which patches make which token."""
        settings = self.settings
        short = shortened(
            self,
            inputs,
            cluster=self.cluster,
            features=settings.features,
            across_tiles=settings.across_tiles,
            tile_separators=settings.tile_separators,
            **options,
        )
        if short is not None:
            self.last_seen = {name: (means, short.grids[name]) for name, means in short.means.items()}
        return short

    def cluster(self, features: torch.Tensor, patch_mask: torch.BoolTensor) -> TokenClusters:
        """The concepts of images (I, N, D)."""
        settings = self.settings
        return concept_clusters(
            features,
            patch_mask,
            num_neighbors=settings.num_neighbors,
            criterion=settings.criterion,
            threshold=settings.threshold,
            scale=settings.scale,
            assignment=settings.assignment,
            max_tokens=settings.max_tokens,
            fixed_tokens=settings.fixed_tokens,
        )

    @property
    def settings(self) -> ConceptTokenSettings:
        return ConceptTokenSettings(**self.config.concept_tokens)

    def _forward_weighed(self, inputs: dict[str, Any]):
        """The forward of the family itself, with the sizes in the attention mask known to its attention."""
        sizes = inputs.get("attention_mask")
        if not (isinstance(sizes, torch.Tensor) and sizes.ndim == 2 and bool((sizes > 1).any())):
            return super().forward(**inputs)
        # Never without a mask: the gaps between the tokens' positions would be taken for the ends of packed rows
        inputs = inputs | {"attention_mask": (sizes > 0).long()}
        if self.settings.token_weight == "none":
            return super().forward(**inputs)
        with key_sizes(sizes) as known:
            outputs = super().forward(**inputs)
        if not known.were_used:
            raise ValueError(
                f"The language model of {type(self).__name__} makes its attention mask itself, so that tokens cannot "
                'be weighed by their size. Use add_concept_tokens(..., token_weight="none").'
            )
        return outputs


class ConceptTokensModel:
    """Mixed into the model with a head: generation sees the short prompt."""

    without_concept_tokens: type

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        _install(self)

    def generate(self, inputs: torch.Tensor | None = None, generation_config=None, **kwargs):
        if inputs is not None:
            kwargs["input_ids"] = inputs
        ids = kwargs.get("input_ids")
        if ids is not None and kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = _mask_of_padding(ids, generation_config or self.generation_config)
        short = self.base_model.shorten(kwargs, on_the_left=True, positions=self._prepare_position_ids_for_generation)
        if short is None:
            return super().generate(generation_config=generation_config, **kwargs)
        removed = short.columns.num_removed
        for limit in ("max_length", "min_length"):  # they count the prompt
            value = kwargs.get(limit, getattr(generation_config or self.generation_config, limit))
            if value and removed:
                short.inputs[limit] = value - removed
        output = super().generate(generation_config=generation_config, **short.inputs)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        prompt = ids.repeat_interleave(len(sequences) // len(ids), dim=0).to(sequences.device)
        sequences = torch.cat([prompt, sequences[:, short.columns.length :]], dim=1)
        if isinstance(output, torch.Tensor):
            return sequences
        output.sequences = sequences
        return output

    def prepare_inputs_for_generation(self, input_ids, *args, attention_mask=None, **kwargs):
        if attention_mask is None or attention_mask.ndim != 2:
            return super().prepare_inputs_for_generation(input_ids, *args, attention_mask=attention_mask, **kwargs)
        with key_sizes(attention_mask):  # a cache of fixed size has its mask made here
            inputs = super().prepare_inputs_for_generation(
                input_ids, *args, attention_mask=(attention_mask > 0).long(), **kwargs
            )
        mask = inputs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            inputs["attention_mask"] = attention_mask
        return inputs

    def _expand_multimodal_outputs(self, input_ids, mm_encoder_output, expand_size=1, inputs_embeds=None):
        return {
            modality: repeated_output(
                output, (input_ids == placeholder_id(self.config, modality)).sum(1).tolist(), expand_size
            )
            for modality, output in mm_encoder_output.items()
        }


def calibrate_concept_tokens(model: PreTrainedModel, inputs: list[dict[str, Any]]) -> float:
    """Sets the feature scale S to its mean over images, in place of each image's own; returns it.

    inputs: batches as the processor makes them; a few hundred images say it to a percent.
    """
    base, scales = model.base_model, []
    with torch.no_grad():
        for batch in inputs:
            for output in encoded_patches(base, batch)[0].values():
                patches = compared_features(output, base.settings.features)
                images = patches.split(flat_features(output.pooler_output)[1] or [len(patches)])
                images = torch.nn.utils.rnn.pad_sequence(images, batch_first=True, padding_value=torch.nan)
                scales.append(feature_scale(*unit_directions(images)))
    if not scales:
        raise ValueError("The inputs hold no images to measure the feature scale on.")
    model.config.concept_tokens["scale"] = float(torch.cat(scales).mean())
    return model.config.concept_tokens["scale"]


def _install(model: PreTrainedModel) -> None:
    """What a model of a class with concept tokens needs beside its class."""
    base, settings = model.base_model, ConceptTokenSettings(**model.config.concept_tokens)
    _change_class(base, _with_concept_tokens(type(base), ConceptTokensBaseModel))
    if settings.token_weight == "size":
        config = model.get_decoder().config
        base.attention_before = config._attn_implementation
        config._attn_implementation_internal = SIZE_AWARE_ATTENTION


@functools.cache
def _with_concept_tokens(cls: type, mixin: type = ConceptTokensModel) -> type:
    """The class of the same name with concept tokens; `__getattr__` gives it to the `auto_map` of a saved model."""
    names = {"__module__": __name__, "without_concept_tokens": cls, "__doc__": cls.__doc__}
    if mixin is ConceptTokensModel:
        names["_auto_class"] = "AutoModelForImageTextToText"
    return type(cls.__name__, (mixin, cls), names)


def __getattr__(name: str) -> type:
    cls = getattr(transformers, name, None)
    if name.startswith("_") or not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _with_concept_tokens(cls)


def _change_class(module: torch.nn.Module, cls: type) -> None:
    module.__class__ = cls
    if hasattr(module, "_hf_hook"):  # of accelerate, which keeps the forward that it calls
        module._old_forward = cls.forward.__get__(module)


def _check_family(model: PreTrainedModel) -> None:
    name, base = type(model).__name__, model.base_model
    reason = None
    if not isinstance(model, PreTrainedModel) or base is model:
        reason = "it is no model with a head around a base model, such as LlavaForConditionalGeneration"
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


def _check_attention(model: PreTrainedModel, settings: ConceptTokenSettings) -> None:
    decoder = model.get_decoder()
    attention = decoder.config._attn_implementation
    if settings.token_weight == "none" or (attention in ("sdpa", "eager") and decoder._supports_sdpa):
        return
    raise ValueError(
        f"The language model {type(decoder).__name__} with attn_implementation={attention!r} cannot add the weight of "
        'a token to its attention. Load it with attn_implementation="sdpa" where it has that, or use '
        'token_weight="none", which needs training.'
    )


def _mask_of_padding(ids: torch.LongTensor, generation_config) -> torch.LongTensor:
    """What generation takes for a mask where none is given."""
    padding, ends = generation_config.pad_token_id, generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return torch.ones_like(ids) if padding is None or padding in ends else (ids != padding).long()
