"""Generation of Setokim (§2.2): text token by token, and within `[Img]` ... `[/Img]` visual token by visual token.

Inside an image the language model says whether another visual token follows (`<image>`) or the image ends (`[/Img]`);
the diffusion head then samples the token from the hidden state before it, and the sample is what the model reads next.
"""

from dataclasses import dataclass, field

import torch
from transformers.generation import (
    GenerateDecoderOnlyOutput,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
)


@dataclass
class SetokimGenerateOutput(GenerateDecoderOnlyOutput):
    """As ever, and `visual_tokens`: for each returned sequence the images that it generated, each (n, D) float32, as
    `decode_images` and `predict_masks` take them. In `sequences` each visual token is one `<image>`."""

    visual_tokens: list[list[torch.FloatTensor]] | None = None


@dataclass
class VisualSampler:
    """Samples the visual tokens of one `generate` call, and keeps them.

    `generators` has one generator per row, which makes rows independent of each other; `None`: torch's global one.
    """

    generators: list[torch.Generator] | None
    options: dict
    condition: torch.Tensor | None = None  # (B, hidden): what came out at the last position
    tokens: dict[int, list[torch.Tensor]] = field(default_factory=dict)  # of each row, in order

    def sample(self, head, rows: torch.Tensor) -> torch.Tensor:
        """Visual tokens (n, D) of unit variance for n of the rows."""
        numbers = rows.tolist()
        generators = None if self.generators is None else [self.generators[row] for row in numbers]
        sampled = head.sample(self.condition[rows], generator=generators, **self.options)
        for row, token in zip(numbers, sampled, strict=True):
            self.tokens.setdefault(row, []).append(token)
        return sampled


class VisualTokenLogitsProcessor(LogitsProcessor):
    """Keeps sequences well formed: visual tokens only inside an image, there nothing else but its end, at least one and
    at most `max_visual_tokens` in each."""

    def __init__(self, config, max_visual_tokens: int, allow_images: bool):
        self.start, self.image, self.end = (
            config.image_start_token_id,
            config.image_token_id,
            config.image_end_token_id,
        )
        self.mask = config.mask_token_id
        self.max_visual_tokens = max_visual_tokens
        self.allow_images = allow_images

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        positions = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        last_start = (positions * (input_ids == self.start)).amax(1)  # 0: there is none
        last_end = (positions * (input_ids == self.end)).amax(1)
        inside = last_start > last_end
        count = input_ids.shape[1] - last_start
        allowed = torch.ones_like(scores, dtype=torch.bool)
        allowed[:, [self.image, self.end, self.mask]] = False
        allowed[:, self.start] = self.allow_images
        allowed[inside] = False
        allowed[:, self.image] = inside & (count < self.max_visual_tokens)
        allowed[:, self.end] = inside & (count > 0)
        return scores.masked_fill(~allowed, -torch.inf)


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

        Beam search gives text only: the start of an image is out of its reach. Returned `sequences` begin with the
        prompt as it was given. What is not given and is in the generation config, also of the arguments below, is taken
        from there.

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
            ValueError: options out of range, a prompt that ends inside an image under beam search, or a visual token to
                be generated with `use_cache=False`.
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
        if limit < 1 or temperature < 0 or num_steps < 1:
            raise ValueError(
                "needed: max_visual_tokens >= 1, visual_temperature >= 0 and num_diffusion_steps >= 1, got "
                f"{limit}, {temperature} and {num_steps}."
            )
        prompt = inputs
        if inputs is not None:
            if kwargs.get("attention_mask") is None:
                kwargs["attention_mask"] = _attention_mask(inputs, option("pad_token_id"), option("eos_token_id"))
            inputs, kwargs = self._expand_prompt(inputs, kwargs)
        if "mm_encoder_outputs" in kwargs and option("prefill_chunk_size") is not None:
            raise ValueError("A prompt with images cannot be read in chunks: leave prefill_chunk_size out.")
        if option("num_beams", 1) > 1 and inputs is not None and bool((inputs[:, -1] == self._start_id).any()):
            raise ValueError("Beam search cannot generate images: set num_beams=1.")
        processor = VisualTokenLogitsProcessor(self.config, limit, allow_images=option("num_beams", 1) == 1)
        kwargs["logits_processor"] = LogitsProcessorList([processor, *(kwargs.get("logits_processor") or [])])
        num_rows = (1 if inputs is None else len(inputs)) * option("num_return_sequences", 1)
        sampler = VisualSampler(
            generators=_row_generators(generator, num_rows, sampling=option("do_sample", False)),
            options={"num_steps": num_steps, "guidance_scale": guidance_scale, "temperature": temperature},
        )
        output = super().generate(inputs, *args, visual_sampler=sampler, **kwargs)

        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        generated = sequences if inputs is None else sequences[:, inputs.shape[1] :]
        if prompt is not None:  # the caller's own, without the expansion
            sequences = torch.cat([prompt.repeat_interleave(len(sequences) // len(prompt), 0), generated], dim=1)
        if isinstance(output, torch.Tensor):
            return sequences
        output.sequences = sequences
        if not isinstance(output, GenerateDecoderOnlyOutput):
            return output
        return SetokimGenerateOutput(**output, visual_tokens=self._collect_images(generated, sampler))

    @property
    def _start_id(self) -> int:
        return self.config.image_start_token_id

    def _expand_prompt(self, input_ids: torch.LongTensor, kwargs: dict) -> tuple[torch.LongTensor, dict]:
        """The prompt with every placeholder expanded, and the features that stand there, computed once."""
        pixel_values, masks = kwargs.pop("pixel_values", None), kwargs.pop("masks", None)
        features = self.model._features(input_ids, pixel_values, masks, kwargs.pop("mm_encoder_outputs", None))
        if features is None:
            return input_ids, kwargs
        expanded = self.model._expand(input_ids, kwargs.get("attention_mask"), features)
        kwargs["mm_encoder_outputs"] = {"image": features}
        if expanded is not None:
            input_ids = expanded.input_ids
            kwargs["attention_mask"] = expanded.attention_mask
        return input_ids, kwargs

    def _update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, **kwargs):
        if (sampler := model_kwargs.get("visual_sampler")) is not None:
            sampler.condition = outputs.last_hidden_state[:, -1]
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)

    def prepare_inputs_for_generation(self, input_ids, visual_sampler=None, is_first_iteration=False, **kwargs):
        model_inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if visual_sampler is None or visual_sampler.condition is None:
            return model_inputs
        rows = (input_ids[:, -1] == self.config.image_token_id).nonzero()[:, 0]
        if len(rows) == 0:
            return model_inputs
        if not kwargs.get("use_cache", True):
            raise ValueError("Generating images needs the cache: set use_cache=True.")
        tokens = visual_sampler.sample(self.diffusion_head, rows)
        inputs_embeds = self.get_input_embeddings()(model_inputs.pop("input_ids"))
        embeds = self.model.multi_modal_projector(tokens).to(inputs_embeds)
        inputs_embeds[rows, -1] = embeds
        return model_inputs | {"input_ids": None, "inputs_embeds": inputs_embeds}

    def _collect_images(self, generated: torch.LongTensor, sampler: VisualSampler) -> list[list[torch.Tensor]]:
        """The visual tokens of each row, image by image, in SeTok's own scale."""
        last = (generated[:, -1] == self.config.image_token_id).nonzero()[:, 0]
        if len(last):  # generation stopped before these were read, and so before they were sampled
            sampler.sample(self.diffusion_head, last)
        images = []
        for row, ids in enumerate(generated.tolist()):
            tokens, found = iter(sampler.tokens.get(row, [])), []
            for position, token_id in enumerate(ids):
                if token_id == self.config.image_token_id:
                    if position == 0 or ids[position - 1] != token_id:
                        found.append([])
                    found[-1].append(next(tokens))
            images.append([self.model.denormalize_tokens(torch.stack(image)) for image in found])
        return images

    @torch.no_grad()
    def decode_images(self, visual_tokens: list[torch.Tensor]) -> torch.Tensor:
        """Paints images (n, 3, S, S), normalised as by the image processor, from visual tokens, each (n_i, D)."""
        tokens, token_mask = self._pad(visual_tokens)
        return self.detokenizer(tokens.to(self.detokenizer.dtype), token_mask)

    @torch.no_grad()
    def predict_masks(self, pixel_values: torch.Tensor, visual_tokens: list[torch.Tensor]) -> torch.Tensor:
        """Mask logits (M, 4h, 4w) of what the visual tokens, each (n_i, D), refer to in images (M, 3, H, W).

        h, w is the vision encoder's grid; above 0 is inside. Interpolate the logits to the size of the image.
        """
        if len(pixel_values) != len(visual_tokens):
            raise ValueError(
                f"{len(visual_tokens)} sets of visual tokens need as many images, got {len(pixel_values)}."
            )
        patch_embeddings, grid_size = self.model.setok.get_patch_embeddings(pixel_values.to(self.device))
        tokens, token_mask = self._pad(visual_tokens)
        return self.mask_decoder(patch_embeddings, grid_size, self.model.normalize_tokens(tokens), token_mask)

    @torch.no_grad()
    def ground_tokens(self, pixel_values: torch.Tensor, visual_tokens: list[torch.Tensor]) -> list[torch.Tensor]:
        """For visual tokens, each (n_i, D), the tokens (m_i, D) of images (M, 3, H, W) that they are nearest to.

        What an answer refers to are tokens of its image, but sampled ones are only close to them. m_i <= n_i: no token
        of an image comes twice.
        """
        image_tokens = self.model.get_image_features(pixel_values.to(self.device)).visual_tokens
        grounded = []
        for tokens, candidates in zip(visual_tokens, image_tokens, strict=True):
            nearest = torch.cdist(self.model.normalize_tokens(tokens.to(self.device)), candidates.float()).argmin(1)
            grounded.append(self.model.denormalize_tokens(candidates[nearest.unique()]))
        return grounded

    def _pad(self, visual_tokens: list[torch.Tensor]) -> tuple[torch.Tensor, torch.BoolTensor]:
        if not visual_tokens or any(tokens.ndim != 2 or len(tokens) == 0 for tokens in visual_tokens):
            raise ValueError("visual_tokens must be a list of (n, D) tensors with n >= 1, one per image.")
        lengths = torch.tensor([len(tokens) for tokens in visual_tokens], device=self.device)
        tokens = torch.nn.utils.rnn.pad_sequence([tokens.to(self.device) for tokens in visual_tokens], batch_first=True)
        return tokens, torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]


def _attention_mask(input_ids: torch.LongTensor, pad_token_id, eos_token_id) -> torch.LongTensor:
    """What `GenerationMixin` would assume: 0 on padding, if that cannot be an end of sequence."""
    eos_token_ids = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
    if pad_token_id is None or pad_token_id in eos_token_ids:
        return torch.ones_like(input_ids)
    return (input_ids != pad_token_id).long()


def _row_generators(generator, num_rows: int, sampling: bool) -> list[torch.Generator] | None:
    """One generator per row."""
    if generator is None:
        return None if sampling else [torch.Generator().manual_seed(0) for _ in range(num_rows)]
    if isinstance(generator, torch.Generator):
        seeds = torch.randint(2**62, (num_rows,), generator=generator, device=generator.device).tolist()
        return [torch.Generator().manual_seed(seed) for seed in seeds]
    if len(generator) != num_rows:
        raise ValueError(f"{num_rows} sequences need as many generators, got {len(generator)}.")
    return list(generator)
