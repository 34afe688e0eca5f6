"""What `generate` needs for images: which token may come next, and the sampler of the visual tokens themselves."""

import math
from contextvars import ContextVar
from dataclasses import dataclass, field
from numbers import Integral, Real

import torch
from transformers.generation import LogitsProcessor

from .configuration_setokim import SetokimConfig
from .copy_attention import CopySources
from .diffusion_head import DiffusionHead

# Options of `generate` that are numbers; below the least, where there is one, they mean nothing
WHOLE_NUMBERS = {
    "max_visual_tokens": 1, "num_diffusion_steps": 1, "max_new_tokens": 1, "max_length": 1, "min_new_tokens": 0,
    "min_length": 0, "num_beams": 1, "num_return_sequences": 1, "no_repeat_ngram_size": 0, "top_k": 0,
    "prompt_lookup_num_tokens": 1,
}  # fmt: skip
NUMBERS = {
    "visual_guidance_scale": 0, "visual_temperature": 0, "temperature": 0, "top_p": 0, "min_p": 0, "typical_p": 0,
    "repetition_penalty": 0, "length_penalty": None,
}  # fmt: skip


def check_number(name: str, value) -> None:
    """Raises unless an option, one of those above, is such a number, or `None`.

    Raises:
        ValueError: it is another thing, NaN, infinite, or below the least. The text names it.
    """
    if value is None:
        return
    whole = name in WHOLE_NUMBERS
    least = WHOLE_NUMBERS[name] if whole else NUMBERS[name]
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or (least is not None and value < least):
        kind = "a whole number" if whole else "a finite number"
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be {kind}{bound}, got {value!r}.")


class VisualTokenLogitsProcessor(LogitsProcessor):
    """Keeps sequences well formed: visual tokens only inside an image, there nothing else but its end, at least one and
    at most `max_visual_tokens` in each."""

    def __init__(self, config: SetokimConfig, max_visual_tokens: int, allow_images: bool):
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
        scores = scores.masked_fill(~allowed, -torch.inf)
        if bool((scores == -torch.inf).all(1).any()):
            raise ValueError(
                "No token is left to go on with: what generate() was told to suppress or to force contradicts the "
                "image that is under way."
            )
        return scores


@dataclass
class VisualSampler:
    """Samples the visual tokens of one `generate` call, and keeps them.

    `generators` has one generator per row, which makes rows independent of each other; `None`: torch's global one.
    `prompt_images`: of each row the visual tokens (n, D) of each image of its prompt.
    """

    generators: list[torch.Generator] | None
    options: dict
    prompt_images: list[list[torch.Tensor]]
    condition: torch.Tensor | None = None  # (B, hidden): what came out at the last position
    images: dict[int, list[list[torch.Tensor]]] = field(default_factory=dict)  # of each row the tokens of each image

    def sample(self, head: DiffusionHead, input_ids: torch.LongTensor, rows: torch.Tensor) -> torch.Tensor:
        """Visual tokens (n, D) of unit variance for n of the rows of `input_ids`, whose last id each then is."""
        numbers = rows.tolist()
        for row in numbers:
            if row not in self.images or input_ids[row, -2] != input_ids[row, -1]:  # the first of an image
                self.images.setdefault(row, []).append([])
        sources = None if head.copy_attention is None else self._sources(numbers, head.token_dim)
        generators = None if self.generators is None else [self.generators[row] for row in numbers]
        condition = self.condition[rows.to(self.condition.device)]
        sampled = head.sample(condition, generators, **self.options, sources=sources)
        for row, token in zip(numbers, sampled, strict=True):
            self.images[row][-1].append(token)
        return sampled

    def _sources(self, rows: list[int], token_dim: int) -> CopySources:
        """What each of the rows can copy: the images of its prompt, and what it has painted so far."""
        nothing = self.condition.new_zeros(0, token_dim)
        images = [
            [*self.prompt_images[row], *(torch.stack(tokens) for tokens in self.images[row] if tokens)] for row in rows
        ]
        owners = [row for row, of_row in enumerate(images) for tokens in of_row for _ in tokens]
        owners = torch.tensor(owners, dtype=torch.long, device=nothing.device)
        visible = owners == torch.arange(len(rows), device=nothing.device)[:, None]
        flat = [tokens.to(nothing.device, torch.float32) for of_row in images for tokens in of_row]
        return CopySources.of_images([*flat, nothing.float()], visible)


# Of the `generate` call under way in this thread. It is no keyword of the model's: assistants and adapters, which come
# between, would pass it on to models that do not know it.
CURRENT_SAMPLER: ContextVar[VisualSampler | None] = ContextVar("CURRENT_SAMPLER", default=None)


def row_generators(generator, num_rows: int, sampling: bool) -> list[torch.Generator] | None:
    """One generator per row, seeded by the one that was given, or by 0 for greedy decoding; `None`: torch's global one.

    Raises:
        TypeError, ValueError: something else than generators, or another number of them than of rows.
    """
    if generator is None:
        return None if sampling else [torch.Generator().manual_seed(0) for _ in range(num_rows)]
    if isinstance(generator, torch.Generator):
        seeds = torch.randint(2**62, (num_rows,), generator=generator, device=generator.device).tolist()
        return [torch.Generator().manual_seed(seed) for seed in seeds]
    if not isinstance(generator, list | tuple) or not all(isinstance(one, torch.Generator) for one in generator):
        raise TypeError(f"generator must be a torch.Generator or a list of them, got {generator!r}.")
    if len(generator) != num_rows:
        raise ValueError(f"{num_rows} sequences need as many generators, got {len(generator)}.")
    return list(generator)
