"""What stands behind the page (`app.py`): the models, the uploaded pictures, and what the user is told to do."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokImageProcessor, SetokimProcessor, draw_mask
from training.demo.conversation import as_large_as_shown
from training.demo.pictures import Picture, read_picture
from training.demo.tokens import draw_tokens, figures, token_columns, tokenize_and_paint

MAX_ANSWER_TOKENS = 128
Upload = dict[str, Any] | None  # a file as gradio hands it over: its path is in "path"


@dataclass(frozen=True)
class Workbench:
    """Each method gives what one tab of the page shows. All raise a `ValueError` that says what the user is to do.

    The same input gives the same result, whatever came before. The models stay on their devices.
    """

    setok: SetokForPreTraining
    image_processor: SetokImageProcessor
    setokim: SetokimForConditionalGeneration
    processor: SetokimProcessor

    def tokenize(self, upload: Upload) -> tuple[str, Image.Image, Image.Image, dict[str, list]]:
        """Figures, the picture with its tokens, the picture painted from them, and a table of the tokens, which has
        the keys `headers` and `data` (rows)."""
        result = tokenize_and_paint(self.setok, self.image_processor, self._read(upload))
        columns = token_columns(result)
        table = {"headers": list(columns), "data": [list(row) for row in zip(*columns.values(), strict=True)]}
        return f"**{figures(result)}**", draw_tokens(result), result.reconstruction, table

    def ask(self, first: Upload, second: Upload, question: str) -> str:
        """The answer to a question about one picture or two; without a question a caption of the one."""
        uploads = [upload for upload in (first, second) if upload is not None] or [None]
        pictures = [self._read_small(upload) for upload in uploads]
        if question.strip():
            question = self._checked(question, len(pictures))
            answer = self.setokim.ask(self.processor, pictures, question, max_new_tokens=MAX_ANSWER_TOKENS)
        elif len(pictures) == 1:
            answer = self.setokim.caption(self.processor, pictures[0], max_new_tokens=MAX_ANSWER_TOKENS)
        else:
            raise ValueError("Write a question about the two pictures, or remove one for a caption of the other.")
        return answer or "(The model says nothing. Try other words.)"

    def paint(self, sentence: str, seed: float | None, guidance: float, temperature: float) -> Image.Image:
        """A picture of a sentence; `guidance` and `temperature` are those of `generate`."""
        sentence = self._checked(sentence)
        if seed is None:
            raise ValueError("There is no seed: give any whole number.")
        return self.setokim.generate_image(
            self.processor,
            sentence,
            generator=torch.Generator().manual_seed(int(seed)),
            visual_guidance_scale=guidance,
            visual_temperature=temperature,
        )

    def edit(self, upload: Upload, instruction: str) -> Image.Image:
        """The picture as the instruction changes it."""
        picture = self._read_small(upload)
        return self.setokim.edit_image(self.processor, picture, self._checked(instruction, 1))

    def segment(self, upload: Upload, expression: str) -> tuple[Image.Image, str]:
        """The picture with a mask of what the expression refers to, and how large the mask is."""
        picture = self._read_small(upload)
        mask = self.setokim.segment(self.processor, picture, self._checked(expression, 1).rstrip("."))
        return draw_mask(picture, mask), f"**{mask.mean():.0%} of the picture**"

    def _read(self, upload: Upload) -> Picture:
        if upload is None:
            raise ValueError("There is no picture yet: upload one, or click an example.")
        try:
            return read_picture(upload["path"], self.image_processor)
        except ValueError as error:
            raise ValueError("This file cannot be read as a picture: upload another, as PNG, JPEG or WebP.") from error

    def _read_small(self, upload: Upload) -> Image.Image:
        return as_large_as_shown(self._read(upload).image)

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
