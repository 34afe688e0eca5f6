"""What stands behind the page (`app.py`): the models, the uploaded pictures, and what the user is told to do."""

import hashlib
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from modeling_setok.tasks_setokim import CAPTION_REQUEST
from processing import SetokImageProcessor, SetokimProcessor
from training.demo import photographs
from training.demo.conversation import MAX_ANSWER_TOKENS, TILE, as_large_as_shown, checked_text
from training.demo.knowledge import Knowledge
from training.demo.photographs import Patches, PhotographModel
from training.demo.pictures import MAX_JPEG_PIXELS, MAX_PIXELS, Picture, outline, read_picture
from training.demo.tokens import draw_tokens, figures, measured_threshold, token_columns, tokenize_and_paint

TIME_LIMIT = 300.0
LARGEST_SEED, GUIDANCE, TEMPERATURE = 2**32 - 1, (1, 10), (0, 2)
NEIGHBORS = (2, 64)  # least and largest K
Upload = dict[str, Any] | None  # a file as gradio hands it over: its path is in "path"


@dataclass(frozen=True)
class Workbench:
    """Each method gives what one tab of the page shows, and at its end a note on it: plain text, perhaps empty.

    Where a text has words that the model does not know, there is no picture, or no good answer: the note says what the
    model knows.

    All raise a `ValueError` that says what the user is to do. The same input gives the same result, whatever came
    before. The models stay on their devices.
    """

    setok: SetokForPreTraining
    image_processor: SetokImageProcessor
    setokim: SetokimForConditionalGeneration
    processor: SetokimProcessor
    time_limit: float = TIME_LIMIT  # seconds after which a call is given up
    photograph_model: PhotographModel | None = None
    _busy: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    _encoded: dict[str, Patches] = field(default_factory=dict, init=False, repr=False, compare=False)  # the last one

    @cached_property
    def named_from(self) -> float:
        """Cosine from which the SeTok's tokens have names."""
        return measured_threshold(self.setok, self.image_processor)

    @cached_property
    def knowledge(self) -> Knowledge:
        """Of the Setokim."""
        return Knowledge.of(self.setokim.config.vision_config)

    def photograph(self, upload: Upload, num_neighbors: float | None, layer: int | None) -> tuple[Image.Image, str]:
        """The photograph with its tokens, and their number beside that of the patches, as a note.

        Args:
            num_neighbors: K, the size in patches of the smallest thing that may get a token.
            layer: one of the model's `layers`.
        """
        model, picture = self.photograph_model, self._read(upload)
        num_neighbors = int(_number(num_neighbors, "granularity", *NEIGHBORS))
        if not (isinstance(layer, int) and layer in model.layers):
            raise ValueError(f"The layer must be one of {', '.join(map(str, model.layers))}, not {layer!r:.40}.")
        with self._turn():
            patches = self._patches(picture.image)
            tokens = model.cluster(patches, num_neighbors, layer)
        rows, columns = patches.grid_size
        note = f"{tokens.counts} ({rows} x {columns})\n{photographs.told_of_scale(model, layer)}"
        return photographs.draw_tokens(picture.image, tokens), note

    def tokenize(self, upload: Upload) -> tuple[Image.Image, Image.Image, dict[str, list], str]:
        """The picture with its tokens, the picture painted from them, a table of the tokens with the keys `headers` and
        `data` (rows), and as a note the figures."""
        picture = self._read(upload)
        with self._turn():
            result = tokenize_and_paint(self.setok, self.image_processor, picture, self.named_from)
        columns = token_columns(result)
        table = {"headers": list(columns), "data": [list(row) for row in zip(*columns.values(), strict=True)]}
        return draw_tokens(result), result.reconstruction, table, figures(result)

    def ask(self, first: Upload, second: Upload, question: str) -> tuple[str, str]:
        """The answer to a question about one picture or two; without a question a caption of the one. Where the model
        says nothing, the answer is empty, and the note says what to ask."""
        uploads = [upload for upload in (first, second) if upload is not None] or [None]
        pictures = [self._read_small(upload) for upload in uploads]
        if str("" if question is None else question).strip():
            question = self._checked(question, len(pictures))
        elif len(pictures) == 1:
            question = CAPTION_REQUEST
        else:
            raise ValueError("Write a question about the two pictures, or remove one for a caption of the other.")
        with self._turn():
            answer = self.setokim.ask(self.processor, pictures, question, max_new_tokens=MAX_ANSWER_TOKENS)
        return answer, self.knowledge.refusal(question) if answer else self.knowledge.silence(question)

    def paint(
        self, sentence: str, seed: float | None, guidance: float, temperature: float
    ) -> tuple[Image.Image | None, str]:
        """A picture of a sentence; `guidance` and `temperature` are those of `generate`."""
        sentence = self._checked(sentence)
        if seed is None:
            raise ValueError("There is no seed: give any whole number.")
        generator = torch.Generator().manual_seed(int(_number(seed, "seed", 0, LARGEST_SEED)))
        options = {
            "visual_guidance_scale": _number(guidance, "guidance", *GUIDANCE),
            "visual_temperature": _number(temperature, "temperature", *TEMPERATURE),
        }
        if refusal := self.knowledge.refusal(sentence):
            return None, refusal
        with self._turn():
            return self.setokim.generate_image(self.processor, sentence, generator=generator, **options), ""

    def edit(self, upload: Upload, instruction: str) -> tuple[Image.Image | None, str]:
        """The picture as the instruction changes it."""
        picture = self._read_small(upload)
        instruction = self._checked(instruction, 1)
        if refusal := self.knowledge.refusal(instruction):
            return None, refusal
        with self._turn():
            return self.setokim.edit_image(self.processor, picture, instruction), ""

    def segment(self, upload: Upload, expression: str) -> tuple[Image.Image | None, str]:
        """The picture with a mask of what the expression refers to, and how large the mask is."""
        picture = self._read_small(upload)
        expression = self._checked(expression, 1)
        if refusal := self.knowledge.refusal(expression):
            return None, refusal
        with self._turn():
            mask = self.setokim.segment(self.processor, picture, expression.rstrip("."))
        return outline(picture, mask, TILE), f"{mask.mean():.0%} of the picture"

    def _patches(self, image: Image.Image) -> Patches:
        """Those of all layers; they are kept until another picture comes: who moves a slider waits but once."""
        key = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
        if key not in self._encoded:
            patches = self.photograph_model.encode(image, self.photograph_model.layers)
            self._encoded.clear()
            self._encoded[key] = patches
        return self._encoded[key]

    def _read(self, upload: Upload) -> Picture:
        if upload is None:
            raise ValueError("There is no picture yet: upload one, or click an example.")
        try:
            return read_picture(upload["path"], self.image_processor)
        except ValueError as error:  # its text holds the path
            raise ValueError(
                f"This file cannot be read as a picture: upload another, as PNG, JPEG or WebP, of up to "
                f"{MAX_PIXELS // 10**6} million pixels (JPEG {MAX_JPEG_PIXELS // 10**6})."
            ) from error

    def _read_small(self, upload: Upload) -> Image.Image:
        return as_large_as_shown(self._read(upload).image)

    def _checked(self, text: str, num_pictures: int = 0) -> str:
        return checked_text(text, self.setokim, self.processor, num_pictures)

    @contextmanager
    def _turn(self):
        """For one call of the models at a time. A queue stands before the workbench: another call can only be one that
        was given up (`tabs.politely`), and nobody knows whether it will end."""
        if not self._busy.acquire(blocking=False):
            raise ValueError("The models still work on a request that took too long: try again in a minute.")
        try:
            yield
        finally:
            self._busy.release()


def _number(value: Any, name: str, least: float, most: float) -> float:
    if not (isinstance(value, (int, float)) and least <= value <= most):  # so that NaN is refused, too
        raise ValueError(f"The {name} must be a number from {least} to {most}, not {value!r:.40}.")
    return value
