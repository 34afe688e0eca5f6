"""What stands behind the page (`app.py`): the models, the uploaded pictures, and what the user is told to do."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from modeling_setok.tasks_setokim import CAPTION_REQUEST
from processing import SetokImageProcessor, SetokimProcessor
from training.demo import phrases
from training.demo.conversation import TILE, as_large_as_shown
from training.demo.knowledge import Knowledge
from training.demo.pictures import Picture, outline, read_picture
from training.demo.tokens import draw_tokens, figures, token_columns, tokenize_and_paint

MAX_ANSWER_TOKENS = 128
Upload = dict[str, Any] | None  # a file as gradio hands it over: its path is in "path"


@dataclass(frozen=True)
class Workbench:
    """Each method gives what one tab of the page shows, and at its end a note on it: plain text, perhaps empty.

    A text is put into the words that the model was trained on (`phrases`), and the note says so. Where these are words
    that the model does not know, there is no picture, or no good answer: the note says what the model knows.

    All raise a `ValueError` that says what the user is to do. The same input gives the same result, whatever came
    before. The models stay on their devices.
    """

    setok: SetokForPreTraining
    image_processor: SetokImageProcessor
    setokim: SetokimForConditionalGeneration
    processor: SetokimProcessor

    @cached_property
    def knowledge(self) -> Knowledge:
        """Of the Setokim."""
        return Knowledge.of(self.setokim.config.vision_config)

    def tokenize(self, upload: Upload) -> tuple[Image.Image, Image.Image, dict[str, list], str]:
        """The picture with its tokens, the picture painted from them, a table of the tokens with the keys `headers` and
        `data` (rows), and as a note the figures."""
        result = tokenize_and_paint(self.setok, self.image_processor, self._read(upload))
        columns = token_columns(result)
        table = {"headers": list(columns), "data": [list(row) for row in zip(*columns.values(), strict=True)]}
        return draw_tokens(result), result.reconstruction, table, figures(result)

    def ask(self, first: Upload, second: Upload, question: str) -> tuple[str, str]:
        """The answer to a question about one picture or two; without a question a caption of the one. Where the model
        says nothing, the answer is empty, and the note says what to ask."""
        uploads = [upload for upload in (first, second) if upload is not None] or [None]
        pictures = [self._read_small(upload) for upload in uploads]
        if question.strip():
            question, note = self._understood(question, phrases.question, len(pictures))
        elif len(pictures) == 1:
            question, note = CAPTION_REQUEST, ""
        else:
            raise ValueError("Write a question about the two pictures, or remove one for a caption of the other.")
        answer = self.setokim.ask(self.processor, pictures, question, max_new_tokens=MAX_ANSWER_TOKENS)
        remark = self.knowledge.refusal(question) if answer else self.knowledge.silence(question)
        return answer, _lines(note, remark)

    def paint(
        self, sentence: str, seed: float | None, guidance: float, temperature: float
    ) -> tuple[Image.Image | None, str]:
        """A picture of a sentence; `guidance` and `temperature` are those of `generate`."""
        sentence, note = self._understood(sentence, phrases.drawing)
        if seed is None:
            raise ValueError("There is no seed: give any whole number.")
        if refusal := self.knowledge.refusal(sentence):
            return None, refusal
        painted = self.setokim.generate_image(
            self.processor,
            sentence,
            generator=torch.Generator().manual_seed(int(seed)),
            visual_guidance_scale=guidance,
            visual_temperature=temperature,
        )
        return painted, note

    def edit(self, upload: Upload, instruction: str) -> tuple[Image.Image | None, str]:
        """The picture as the instruction changes it."""
        picture = self._read_small(upload)
        instruction, note = self._understood(instruction, phrases.instruction, 1)
        if refusal := self.knowledge.refusal(instruction):
            return None, refusal
        return self.setokim.edit_image(self.processor, picture, instruction), note

    def segment(self, upload: Upload, expression: str) -> tuple[Image.Image | None, str]:
        """The picture with a mask of what the expression refers to, and how large the mask is."""
        picture = self._read_small(upload)
        expression, note = self._understood(expression, phrases.expression, 1)
        if refusal := self.knowledge.refusal(expression):
            return None, refusal
        mask = self.setokim.segment(self.processor, picture, expression.rstrip("."))
        return outline(picture, mask, TILE), _lines(f"{mask.mean():.0%} of the picture", note)

    def _read(self, upload: Upload) -> Picture:
        if upload is None:
            raise ValueError("There is no picture yet: upload one, or click an example.")
        try:
            return read_picture(upload["path"], self.image_processor)
        except ValueError as error:
            raise ValueError("This file cannot be read as a picture: upload another, as PNG, JPEG or WebP.") from error

    def _read_small(self, upload: Upload) -> Image.Image:
        return as_large_as_shown(self._read(upload).image)

    def _understood(self, text: str, rephrase: Callable[[str], str], num_pictures: int = 0) -> tuple[str, str]:
        """What the model is told for a text, and a note where these are other words."""
        return self.knowledge.in_its_words(self._checked(text, num_pictures), rephrase)

    def _checked(self, text: str, num_pictures: int = 0) -> str:
        """The text without spaces around it, if there is one and it fits into the model with pictures and answer."""
        text = text.strip()
        if not text:
            raise ValueError("There is no text yet: write what you want, or click an example.")
        tokenizer, config = self.processor.tokenizer, self.setokim.config
        if marks := [mark for mark in tokenizer.all_special_tokens if mark in text]:
            raise ValueError(f"Leave {' and '.join(marks)} out: to the model this is no text, but a mark of its own.")
        others = (num_pictures + 1) * config.vision_config.max_tokens + MAX_ANSWER_TOKENS  # an answer may be a picture
        room = config.text_config.max_position_embeddings - others
        length = len(tokenizer(text)["input_ids"])
        if length > room:
            raise ValueError(f"This text is too long: it has {length} tokens, and the model reads up to {room}.")
        return text


def _lines(*notes: str) -> str:
    return "\n".join(filter(None, notes))
