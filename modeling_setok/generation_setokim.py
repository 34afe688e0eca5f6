"""Generation of Setokim (§2.2): text token by token, and within `[Img]` ... `[/Img]` visual token by visual token.

Inside an image the language model says whether another visual token follows (`<image>`) or the image ends (`[/Img]`);
the diffusion head then samples the token from the hidden state before it, and the sample is what the model reads next.
"""

from dataclasses import dataclass

import torch
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMixin, LogitsProcessorList

from .placeholders import (
    expand_placeholders,
    find_special_tokens,
    gather_positions,
    past_length,
    position_limit,
)
from .visual_sampling import (
    CURRENT_SAMPLER,
    NUMBERS,
    WHOLE_NUMBERS,
    VisualSampler,
    VisualTokenLogitsProcessor,
    check_number,
    row_generators,
)


@dataclass
class SetokimGenerateOutput(GenerateDecoderOnlyOutput):
    """As ever, and `visual_tokens`: for each returned sequence the images that it generated, each (n, D) float32, as
    `decode_images` and `predict_masks` take them. In `sequences` each visual token is one `<image>`."""

    visual_tokens: list[list[torch.FloatTensor]] | None = None


class SetokimGenerationMixin(GenerationMixin):
    """`generate` for prompts with images and answers with images, and what becomes of the visual tokens."""

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        *args,
        max_visual_tokens: int | None = None,
        visual_guidance_scale: float | None = None,
        visual_temperature: float | None = None,
        num_diffusion_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        **kwargs,
    ):
        """As `GenerationMixin.generate`, for prompts (B, T) with `pixel_values` (I, 3, H, W), padded on the left.

        Beam search, assisted decoding and prompt lookup give text only: the start of an image is out of their reach, as
        it is where `suppress_tokens` names a token of images, or `no_repeat_ngram_size` counts them. Returned
        `sequences` begin with the prompt as it was given. `position_ids` and `inputs_embeds` are of that prompt, too.
        What is not given and is in the generation config, also of the arguments below, is taken from there.

        A conversation goes on from a returned cache with the whole text so far and all its `pixel_values`: the cache
        holds every visual token, and only the images tell how many those are.

        Args:
            max_visual_tokens: limit per generated image; default SeTok's own, `vision_config.max_tokens`.
            visual_guidance_scale: classifier-free guidance of the diffusion head; default 1, which is without.
            visual_temperature: factor of the diffusion head's noise, default 1; 0: the same image every time.
            num_diffusion_steps: denoising steps per visual token; default `diffusion_config.num_inference_steps`.
            generator: of the noise. A list has one for each returned sequence; one alone seeds them in order. Without
                it greedy decoding is deterministic, and sampling uses torch's global generator.

        Returns:
            Sequences (B, T + new), or, with `return_dict_in_generate=True`, a `SetokimGenerateOutput`.

        Raises:
            ValueError: options out of range or without effect on images, a prompt that is with its answer longer than
                the language model's positions, or that ends inside an image in a mode that gives text only, a cache
                that does not fit, or a visual token to be generated without a cache.
        """
        if (input_ids := kwargs.pop("input_ids", None)) is not None:
            inputs = input_ids
        generation_config = kwargs.get("generation_config") or (args[0] if args else None) or self.generation_config

        def option(name: str, default=None):
            value = kwargs.get(name, getattr(generation_config, name, None))
            return default if value is None else value

        visual_options = {
            "max_visual_tokens": (max_visual_tokens, self.config.vision_config.max_tokens),
            "visual_guidance_scale": (visual_guidance_scale, 1.0),
            "visual_temperature": (visual_temperature, 1.0),
            "num_diffusion_steps": (num_diffusion_steps, self.config.diffusion_config.num_inference_steps),
        }
        limit, guidance_scale, temperature, num_steps = (
            option(name, default) if value is None else value for name, (value, default) in visual_options.items()
        )
        given = dict(zip(visual_options, (limit, guidance_scale, temperature, num_steps), strict=True))
        self._refuse_options(option, given)
        text_only = self._text_only_reason(option, kwargs.get("assistant_model"))
        prompt = inputs  # as it was given, with one `<image>` per image
        inputs, prompt_images, kwargs = self._expand_prompt(inputs, kwargs, option)
        if inputs is not None:
            self._refuse_too_long(inputs.shape[1], option)
        if text_only and inputs is not None and bool((inputs[:, -1] == self.config.image_start_token_id).any()):
            raise ValueError(f"The prompt ends with the start of an image, but {text_only} gives text only.")
        processor = VisualTokenLogitsProcessor(self.config, limit, allow_images=not text_only)
        kwargs["logits_processor"] = LogitsProcessorList([processor, *(kwargs.get("logits_processor") or [])])
        num_returned = option("num_return_sequences", 1)
        num_rows = (1 if inputs is None else len(inputs)) * num_returned
        sampler = VisualSampler(
            generators=row_generators(generator, num_rows, sampling=option("do_sample", False)),
            options={"num_steps": num_steps, "guidance_scale": guidance_scale, "temperature": temperature},
            prompt_images=[images for images in prompt_images for _ in range(num_returned)],
        )
        token = CURRENT_SAMPLER.set(None if text_only else sampler)
        try:
            output = super().generate(inputs, *args, **kwargs)
        finally:
            CURRENT_SAMPLER.reset(token)

        cache = kwargs.get("past_key_values")
        if not isinstance(output, torch.Tensor):
            cache = output.get("past_key_values")
        if cache is not None and prompt is not None and inputs.shape[1] > prompt.shape[1]:
            cache.num_inserted = inputs.shape[1] - prompt.shape[1]
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        generated = sequences if inputs is None else sequences[:, inputs.shape[1] :]
        if prompt is None:  # as ever for a prompt of embeddings
            sequences = generated
        else:  # the caller's own, without the expansion
            sequences = torch.cat([prompt.repeat_interleave(len(sequences) // len(prompt), 0), generated], dim=1)
        if isinstance(output, torch.Tensor):
            return sequences
        output.sequences = sequences
        if not isinstance(output, GenerateDecoderOnlyOutput):
            return output
        return SetokimGenerateOutput(**output, visual_tokens=self._collect_images(sequences, sampler))

    def _refuse_options(self, option, visual_options: dict) -> None:
        """Raises for options that are no numbers where they must be, and for those that a Setokim cannot follow."""
        for name in (*WHOLE_NUMBERS, *NUMBERS):
            check_number(name, visual_options.get(name, option(name)))
        num_steps, most = visual_options["num_diffusion_steps"], self.config.diffusion_config.num_train_timesteps
        if num_steps > most:
            raise ValueError(f"num_diffusion_steps must be at most the {most} of training, got {num_steps}.")
        if option("guidance_scale") not in (None, 1):
            raise ValueError(
                "guidance_scale compares with a prompt without images, which Setokim cannot make for answers that may "
                "paint: leave it out. visual_guidance_scale guides the images."
            )
        if self.training and self.is_gradient_checkpointing and option("use_cache", True):
            raise ValueError(
                "Generation needs the cache, which gradient checkpointing turns off in training: call model.eval() or "
                "model.gradient_checkpointing_disable() first."
            )

    def _refuse_too_long(self, length: int, option) -> None:
        """Raises where an expanded prompt, with what may be generated, has more positions than the language model."""
        limit = position_limit(self.config.text_config)
        name = "max_length" if option("max_new_tokens") is None else "max_new_tokens"
        asked = option(name, length + 1)
        total = max(length + 1, asked if name == "max_length" else length + asked)
        if limit is not None and total > limit:
            raise ValueError(
                f"The prompt has {length} tokens, those of its images included, and {name} is {asked}: that is more "
                f"than the {limit} positions of the language model (max_position_embeddings of its config). Shorten "
                f"the text or lower {name}."
            )

    def _text_only_reason(self, option, assistant_model) -> str | None:
        """What of the options keeps images out of an answer, if anything does.

        Raises:
            ValueError: they ask for drafts by layers that Setokim does not have.
        """
        if option("num_beams", 1) > 1:
            return "beam search"
        if assistant_model is not None or option("prompt_lookup_num_tokens") is not None:
            return "assisted decoding"
        for name in ("assistant_early_exit", "use_mtp"):
            if option(name):
                raise ValueError(f"{name} needs layers that Setokim does not have: give an assistant_model instead.")
        if option("no_repeat_ngram_size"):  # visual tokens repeat `<image>`
            return "no_repeat_ngram_size"
        config = self.config
        image_ids = {config.image_start_token_id, config.image_token_id, config.image_end_token_id}
        return "suppress_tokens" if image_ids & set(option("suppress_tokens") or ()) else None

    def _expand_prompt(
        self, input_ids, kwargs: dict, option
    ) -> tuple[torch.LongTensor | None, list[list[torch.Tensor]], dict]:
        """The prompt with every placeholder expanded, the visual tokens of each image of each row, and what belongs to
        the prompt, the features of its images computed once.

        A prompt of embeddings gets ids as well, which logits processors look at: its special tokens, and for the rest
        `<mask>`, which is never generated.
        """
        inputs_embeds, cache = kwargs.get("inputs_embeds"), kwargs.get("past_key_values")
        only_embeds = input_ids is None and inputs_embeds is not None
        if only_embeds:
            input_ids = find_special_tokens(self.config, inputs_embeds, self.get_input_embeddings())
        if input_ids is None:
            return None, [[]], kwargs
        if kwargs.get("attention_mask") is None:
            pad_token_id = None if only_embeds else option("pad_token_id")
            kwargs["attention_mask"] = _attention_mask(input_ids, pad_token_id, option("eos_token_id"))
        pixel_values, masks = kwargs.pop("pixel_values", None), kwargs.pop("masks", None)
        features = self.model.resolve_features(input_ids, pixel_values, masks, kwargs.pop("mm_encoder_outputs", None))
        expanded = None
        if features is not None:
            kwargs["mm_encoder_outputs"] = {"image": features}
            counts = [len(tokens) for tokens in features.pooler_output]
            expanded = expand_placeholders(
                self.config, input_ids, kwargs["attention_mask"], kwargs.get("position_ids"), counts
            )
        _check_cache(cache, expanded, has_images=features is not None)
        if expanded is not None:
            input_ids, kwargs["attention_mask"] = expanded.input_ids, expanded.attention_mask
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = expanded.position_ids
            if inputs_embeds is not None:
                kwargs["inputs_embeds"] = gather_positions(inputs_embeds, expanded.source_positions)
        prompt_images = self._images_of_rows(input_ids, features)
        return input_ids.masked_fill(input_ids < 0, self.config.mask_token_id), prompt_images, kwargs

    def _images_of_rows(self, input_ids: torch.LongTensor, features) -> list[list[torch.Tensor]]:
        """Of each row of an expanded prompt the visual tokens of its images; none where nothing is copied from them."""
        images = [[] for _ in input_ids]
        if features is None or self.diffusion_head.copy_attention is None:
            return images
        if features.visual_tokens is None:
            raise ValueError(
                "This model copies visual tokens: mm_encoder_outputs need them, as get_image_features gives them."
            )
        rows = iter((input_ids == self.config.image_token_id).nonzero()[:, 0].tolist())  # of each visual token
        for tokens in features.visual_tokens:
            row = [next(rows) for _ in tokens][0]
            images[row].append(tokens)
        return images

    def _update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, **kwargs):
        if (sampler := CURRENT_SAMPLER.get()) is not None:
            sampler.condition = outputs.last_hidden_state[:, -1]
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, inputs_embeds=None, **kwargs):
        for name in ("tokenizer", "assistant_tokenizer"):  # of stopping criteria and assistants: none of the model's
            kwargs.pop(name, None)
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, past_key_values=past_key_values, inputs_embeds=inputs_embeds, **kwargs
        )
        features = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        if features is not None and (kwargs.get("is_first_iteration") or past_length(past_key_values) == 0):
            name = "input_ids" if model_inputs.get("input_ids") is not None else "inputs_embeds"
            features = self._features_of_last(model_inputs[name].shape[1], input_ids, features)
            model_inputs["mm_encoder_outputs"] = {"image": features}
        sampler = CURRENT_SAMPLER.get()
        if sampler is None or sampler.condition is None:
            return model_inputs
        rows = (input_ids[:, -1] == self.config.image_token_id).nonzero()[:, 0]
        if len(rows) == 0:
            return model_inputs
        if not kwargs.get("use_cache", True):
            raise ValueError("Generating images needs the cache: set use_cache=True.")
        tokens = sampler.sample(self.diffusion_head, input_ids, rows)
        inputs_embeds = self.get_input_embeddings()(model_inputs.pop("input_ids"))
        embeds = self.model.multi_modal_projector(tokens).to(inputs_embeds)
        inputs_embeds[rows.to(inputs_embeds.device), -1] = embeds
        return model_inputs | {"input_ids": None, "inputs_embeds": inputs_embeds}

    def _features_of_last(self, length: int, input_ids: torch.LongTensor, features):
        """Of a prompt's features those of its last `length` positions; a cache holds what was before. `None`: none."""
        if length == input_ids.shape[1]:
            return features
        is_visual = input_ids == self.config.image_token_id
        number = is_visual.flatten().cumsum(0).view_as(is_visual) - 1
        rows = number[:, -length:][is_visual[:, -length:]]
        flat = torch.cat(features.pooler_output)
        return type(features)(pooler_output=[flat[rows.to(flat.device)]]) if len(rows) else None

    def _collect_images(self, sequences: torch.LongTensor, sampler: VisualSampler) -> list[list[torch.Tensor]]:
        """The visual tokens of each row, image by image, in SeTok's own scale."""
        last = (sequences[:, -1] == self.config.image_token_id).nonzero()[:, 0]
        if len(last):  # generation stopped before these were read, and so before they were sampled
            sampler.sample(self.diffusion_head, sequences, last)
        images = [
            [self.model.denormalize_tokens(torch.stack(tokens)) for tokens in sampler.images.get(row, [])]
            for row in range(len(sequences))
        ]
        if not all(bool(image.isfinite().all()) for found in images for image in found):
            raise ValueError(
                "The generated visual tokens are not finite: lower visual_guidance_scale or visual_temperature."
            )
        return images

    @torch.no_grad()
    def decode_images(self, visual_tokens: list[torch.Tensor]) -> torch.Tensor:
        """Paints images (n, 3, S, S), normalised as by the image processor, from visual tokens, each (n_i, D)."""
        tokens, token_mask = self._pad(visual_tokens)
        return self.detokenizer(tokens, token_mask)

    @torch.no_grad()
    def predict_masks(
        self, pixel_values: torch.Tensor | None, visual_tokens: list[torch.Tensor], image_features=None
    ) -> torch.Tensor:
        """Mask logits (M, 4h, 4w) of what the visual tokens, each (n_i, D), refer to in images (M, 3, H, W).

        h, w is the vision encoder's grid; above 0 is inside. Interpolate the logits to the size of the image. In place
        of the images (then `None`) their `image_features` will do, which `get_image_features` returned.
        """
        _check_either(pixel_values, image_features)
        if image_features is None:
            patch_embeddings, grid_size = self.model.setok.get_patch_embeddings(pixel_values.to(self.input_device))
        else:
            outputs = image_features.setok_output
            patch_embeddings, grid_size = outputs.patch_embeddings, outputs.grid_size
        if len(patch_embeddings) != len(visual_tokens):
            raise ValueError(
                f"{len(visual_tokens)} sets of visual tokens need as many images, got {len(patch_embeddings)}."
            )
        tokens, token_mask = self._pad(visual_tokens)
        return self.mask_decoder(patch_embeddings, grid_size, self.model.normalize_tokens(tokens), token_mask)

    @torch.no_grad()
    def ground_tokens(
        self, pixel_values: torch.Tensor | None, visual_tokens: list[torch.Tensor], image_features=None
    ) -> list[torch.Tensor]:
        """For visual tokens, each (n_i, D), the tokens (m_i, D) of images (M, 3, H, W) that they are nearest to.

        What an answer refers to are tokens of its image, but sampled ones are only close to them. m_i <= n_i: no token
        of an image comes twice. Images or their `image_features` as for `predict_masks`.
        """
        _check_either(pixel_values, image_features)
        if image_features is None:
            image_features = self.model.get_image_features(pixel_values.to(self.input_device), return_dict=True)
        grounded = []
        for tokens, candidates in zip(visual_tokens, image_features.visual_tokens, strict=True):
            tokens = self.model.normalize_tokens(tokens.to(candidates.device))
            nearest = torch.cdist(tokens, candidates.float()).argmin(1)
            grounded.append(self.model.denormalize_tokens(candidates[nearest.unique()]))
        return grounded

    def _pad(self, visual_tokens: list[torch.Tensor]) -> tuple[torch.Tensor, torch.BoolTensor]:
        if not visual_tokens or any(tokens.ndim != 2 or len(tokens) == 0 for tokens in visual_tokens):
            raise ValueError("visual_tokens must be a list of (n, D) tensors with n >= 1, one per image.")
        lengths = torch.tensor([len(tokens) for tokens in visual_tokens], device=self.input_device)
        tokens = torch.nn.utils.rnn.pad_sequence(
            [tokens.to(self.input_device) for tokens in visual_tokens], batch_first=True
        )
        return tokens, torch.arange(tokens.shape[1], device=self.input_device) < lengths[:, None]


def _check_either(pixel_values, image_features) -> None:
    if (pixel_values is None) == (image_features is None):
        raise ValueError("Give either pixel_values or image_features.")


def _check_cache(cache, expanded, has_images: bool) -> None:
    """Raises unless a filled cache holds just the beginning of an expanded prompt."""
    length, num_inserted = past_length(cache), getattr(cache, "num_inserted", 0)
    if length == 0:
        return
    if num_inserted and not has_images:
        raise ValueError(
            f"The cache holds {num_inserted} visual tokens more than the text has <image>: pass all pixel_values of "
            "the conversation again, by which the text is compared with it."
        )
    if expanded is not None:
        last = length - num_inserted - 1
        ends = expanded.compact_positions[:, last : last + 1]
        if last < 0 or ends.numel() == 0 or bool((ends != length - 1).any()):
            raise ValueError(
                "The cache does not hold the beginning of these texts and images, each at its place. Rows whose new "
                "images have different numbers of tokens move apart: go on with one row at a time, or without a cache."
            )


def _attention_mask(input_ids: torch.LongTensor, pad_token_id, eos_token_id) -> torch.LongTensor:
    """What `GenerationMixin` would assume: 0 on padding, if that cannot be an end of sequence."""
    eos_token_ids = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
    if pad_token_id is None or pad_token_id in eos_token_ids:
        return torch.ones_like(input_ids)
    return (input_ids != pad_token_id).long()
