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
from dataclasses import asdict
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from .configuration_adaption import ConceptTokenSettings, check_attention, check_family
from .density_peaks import TokenClusters, feature_scale, unit_directions
from .patch_features import compared_features, encoded_patches, flat_features, placeholder_id, repeated_output
from .patch_sets import ConceptMeans, concept_clusters
from .short_inputs import ShortInputs, shortened
from .size_aware_attention import SIZE_AWARE_ATTENTION, key_sizes


def add_concept_tokens(model: PreTrainedModel, **settings) -> PreTrainedModel:
    """Gives the language model of a vision-language model concept tokens in place of all patches; returns the model.

    It changes `model` itself, which goes on as before in every other respect: forward with labels, `generate`,
    pipelines, trainers, PEFT, saving. `model.config.concept_tokens` holds the settings, so that a saved folder, which
    brings this code along, loads as such by `from_pretrained(..., trust_remote_code=True)`.

    Args:
        num_neighbors, criterion, threshold, max_tokens, fixed_tokens, assignment: see `cluster_tokens`.
        largest_share: in (0, 1]: clusters that hold more of their image's patches are split until none does, or until
            there are `max_tokens`; not together with `fixed_tokens`. By default they may hold any share.
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
    check_family(model)
    check_attention(model, settings)
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


class _OfAFamily:
    """What a class with concept tokens keeps of the one without."""

    without_concept_tokens: type

    @classmethod
    def is_custom_code(cls) -> bool:
        """Where it is not, weights are written and read under the names that transformers gives them in files."""
        return cls.without_concept_tokens.is_custom_code()


class ConceptTokensBaseModel(_OfAFamily):
    """Mixed into the base model: the class that joins patches and text."""

    last_seen: dict[str, tuple[ConceptMeans, list[tuple[int, ...]]]] = {}  # by modality, see concept_maps

    def forward(self, *args, **kwargs):
        names = inspect.signature(super().forward).parameters if args else ()
        inputs = kwargs | dict(zip(names, args, strict=False))
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
        short = shortened(self, inputs, cluster=self.cluster, settings=self.settings, **options)
        if short is not None:
            self.last_seen = {name: (means, short.grids[name]) for name, means in short.means.items()}
        return short

    def cluster(self, features: torch.Tensor, patch_mask: torch.BoolTensor) -> TokenClusters:
        """The concepts of images (I, N, D)."""
        return concept_clusters(features, patch_mask, **self.settings.of_clustering())

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
                f"The language model of {type(self).__name__} makes its attention mask itself, or its attention was "
                "set anew, so that tokens are not weighed by their size. Set no attention after add_concept_tokens, "
                'or add them with token_weight="none".'
            )
        return outputs


class ConceptTokensModel(_OfAFamily):
    """Mixed into the model with a head: generation sees the short prompt."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        check_attention(self, ConceptTokenSettings(**config.concept_tokens))
        _install(self)

    @torch.no_grad()
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
        positions = kwargs.get("position_ids")
        if positions is not None and inputs.get("position_ids") is None and bool((attention_mask > 1).any()):
            # Families that count positions anew (exaone4_5) would count those of the short text
            inputs["position_ids"] = positions[..., -inputs["input_ids"].shape[1] :]
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


def _mask_of_padding(ids: torch.LongTensor, generation_config) -> torch.LongTensor:
    """What generation takes for a mask where none is given."""
    padding, ends = generation_config.pad_token_id, generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return torch.ones_like(ids) if padding is None or padding in ends else (ids != padding).long()
