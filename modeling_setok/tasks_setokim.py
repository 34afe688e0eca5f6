"""What users do with a Setokim, each in one call: caption, ask, generate, edit, segment.

Every function takes one input or a list of them, and gives one result or a list; keywords go to `generate`.
"""

import numpy as np
import torch
from PIL import Image
from torch import nn

CAPTION_REQUEST = "Describe the picture."
SEGMENT_REQUEST = "Segment {}."
# Of two paintings: a difference of a colour channel, in [0, 1], up to which nothing has changed, and from which all has
UNCHANGED, CHANGED = 0.2, 0.4


class SetokimTasksMixin:
    """Tasks of a `SetokimForConditionalGeneration`; `processor` is its `SetokimProcessor`, images are PIL images."""

    def caption(self, processor, images, request: str = CAPTION_REQUEST, max_new_tokens: int = 128, **kwargs):
        """A description (str) of an image; or of each of a list."""
        single, images = _as_list(images)
        texts = self._answer(processor, [([image], request) for image in images], max_new_tokens, **kwargs)
        return texts[0] if single else texts

    def ask(self, processor, images, questions, max_new_tokens: int = 128, **kwargs):
        """The answer (str) to a question about an image, or about several: then the image is a list of them. For a
        list of questions, `images` is a list with an entry for each; an entry without pictures is `None`."""
        single, questions = _as_list(questions)
        pairs = _pairs([images] if single else _as_list(images)[1], questions)
        prompts = [(_as_list(image)[1] if image is not None else [], question) for image, question in pairs]
        texts = self._answer(processor, prompts, max_new_tokens, **kwargs)
        return texts[0] if single else texts

    def generate_image(self, processor, prompts, max_new_tokens: int | None = None, **kwargs):
        """A PIL image painted from a description, such as "Draw: a red car on a plain blue background."."""
        single, prompts = _as_list(prompts)
        images = self._paint(processor, [([], prompt) for prompt in prompts], max_new_tokens, **kwargs)
        return images[0] if single else images

    def edit_image(
        self,
        processor,
        images,
        instructions,
        keep_unchanged: bool = True,
        max_new_tokens: int | None = None,
        **kwargs,
    ):
        """The image (PIL) as an instruction changes it.

        What the model generates is painted from a few tokens, and coarse. With `keep_unchanged` that painting replaces
        the image only where it differs from a painting of the image's own tokens, and the result has the image's size.
        Without, the result is the painting alone, at the detokenizer's size.
        """
        single, images = _as_list(images)
        _, instructions = _as_list(instructions)
        pairs = [([image], instruction) for image, instruction in _pairs(images, instructions)]
        edited = self._paint(processor, pairs, max_new_tokens, **kwargs)
        if keep_unchanged:
            pixel_values = processor.image_processor(images, return_tensors="pt")["pixel_values"].to(self.device)
            visual_tokens = self.model.get_image_features(pixel_values).visual_tokens
            before = self.decode_images([self.model.denormalize_tokens(tokens) for tokens in visual_tokens])
            before = processor.image_processor.postprocess(before)
            shown = _as_shown(processor, images)
            edited = [_keep_unchanged(*pictures) for pictures in zip(shown, before, edited, strict=True)]
        return edited[0] if single else edited

    def segment(
        self,
        processor,
        images,
        expressions,
        ground: bool = True,
        max_new_tokens: int | None = None,
        **kwargs,
    ):
        """Mask (H, W) bool, a numpy array of the image's own size, of what an expression such as "the dog" refers to.

        With `ground` the mask decoder gets the image's own tokens that are nearest to the generated ones (see
        `ground_tokens`), without it the generated ones. Where the model answers without visual tokens, the mask is
        empty.
        """
        single, images = _as_list(images)
        _, expressions = _as_list(expressions)
        pairs = [([image], SEGMENT_REQUEST.format(expression)) for image, expression in _pairs(images, expressions)]
        visual_tokens = self._visual_answers(processor, pairs, max_new_tokens, **kwargs)
        sizes = [(image.height, image.width) for image in _as_shown(processor, images)]
        masks = [np.zeros(size, dtype=bool) for size in sizes]
        found = [i for i, tokens in enumerate(visual_tokens) if tokens is not None]
        if found:
            pixel_values = processor.image_processor([images[i] for i in found], return_tensors="pt")["pixel_values"]
            prompts = [visual_tokens[i] for i in found]
            if ground:
                prompts = self.ground_tokens(pixel_values, prompts)
            logits = self.predict_masks(pixel_values, prompts)
            for i, mask in zip(found, logits, strict=True):
                resized = nn.functional.interpolate(mask[None, None], sizes[i], mode="bilinear", align_corners=False)
                masks[i] = (resized[0, 0] > 0).cpu().numpy()
        return masks[0] if single else masks

    def _inputs(self, processor, prompts: list[tuple[list, str]], answer_starts: str = ""):
        """Inputs of a batch of user turns, (images, text) each, padded on the left."""
        conversations = [
            [{"role": "user", "content": [*({"type": "image"} for _ in images), {"type": "text", "text": text}]}]
            for images, text in prompts
        ]
        texts = [
            processor.apply_chat_template(conversation, add_generation_prompt=True) + answer_starts
            for conversation in conversations
        ]
        images = [image for images, _ in prompts for image in images]
        return processor(images=images or None, text=texts, padding=True, padding_side="left", return_tensors="pt").to(
            self.device
        )

    def _answer(self, processor, prompts, max_new_tokens: int, **kwargs) -> list[str]:
        inputs = self._inputs(processor, prompts)
        sequences = self.generate(**inputs, max_new_tokens=max_new_tokens, **kwargs)
        answers = sequences[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in processor.batch_decode(answers, skip_special_tokens=True)]

    def _visual_answers(self, processor, prompts, max_new_tokens, **kwargs) -> list[torch.Tensor | None]:
        """The visual tokens (n, D) of the first image in each answer. The answer is made to begin with an image."""
        limit = kwargs.get("max_visual_tokens") or self.config.vision_config.max_tokens
        image_start = processor.tokenizer.convert_ids_to_tokens(self.config.image_start_token_id)
        inputs = self._inputs(processor, prompts, answer_starts=image_start)
        output = self.generate(
            **inputs, max_new_tokens=max_new_tokens or limit + 2, return_dict_in_generate=True, **kwargs
        )
        return [images[0] if images else None for images in output.visual_tokens]

    def _paint(self, processor, prompts, max_new_tokens, **kwargs) -> list:
        visual_tokens = self._visual_answers(processor, prompts, max_new_tokens, **kwargs)
        return processor.image_processor.postprocess(self.decode_images(visual_tokens))


def _as_list(value) -> tuple[bool, list]:
    """Whether it was a single one, and the list."""
    return (False, list(value)) if isinstance(value, (list, tuple)) else (True, [value])


def _pairs(images: list, texts: list[str]) -> list[tuple]:
    if len(images) != len(texts):
        raise ValueError(
            f"Needed is one text for each entry of images, got {len(images)} images and {len(texts)} texts."
        )
    return list(zip(images, texts, strict=True))


def _as_shown(processor, images: list) -> list[Image.Image]:
    """RGB pictures as the image processor reads them (orientation, transparency, paths), at their own size."""
    image_processor = processor.image_processor
    return [
        image_processor.postprocess(image_processor(image, do_resize=False, return_tensors="pt")["pixel_values"])[0]
        for image in images
    ]


def _keep_unchanged(image: Image.Image, before: Image.Image, after: Image.Image) -> Image.Image:
    """The image, with `after` where that differs from `before`; both are paintings of the same size."""
    difference = np.abs(np.asarray(before, dtype=np.float32) - np.asarray(after, dtype=np.float32)).max(-1) / 255
    changed = ((difference - UNCHANGED) / (CHANGED - UNCHANGED)).clip(0, 1)
    mask = Image.fromarray((255 * changed).round().astype(np.uint8)).resize(image.size, Image.Resampling.BILINEAR)
    return Image.composite(after.resize(image.size, Image.Resampling.BICUBIC), image, mask)
