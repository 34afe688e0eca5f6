"""What users do with a Setokim, each in one call: caption, ask, generate, edit, segment.

Every function takes one input or a list of them, and gives one result or a list; keywords go to `generate`, but for
those that ask for other results: one input has one. Texts are text, whatever special tokens are written in them.

`edit_image` and `segment` are two steps each, which can also be taken one by one: `generate_visual_tokens`, and what
becomes of the tokens, `edit_from_tokens` or `segment_from_tokens`. All three can share what `encode_images` computed.
"""

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import nn

from .visual_sampling import check_number

CAPTION_REQUEST = "Describe the picture."
SEGMENT_REQUEST = "Segment {}."
# A generated token stands for a token of the image, unchanged, if their squared distance is below `SAME_TOKEN` (two
# random tokens are 2 apart) and what became of that token's region changes the mean colour of the whole picture, in
# [0, 1], by less than `SMALL_EFFECT`: tokens of a background lie close together, whatever their colour.
SAME_TOKEN, SMALL_EFFECT = 1.0, 0.06
# Of two paintings: a difference of a colour channel, in [0, 1], up to which nothing has changed, and from which all has
UNCHANGED, CHANGED = 0.05, 0.15


class SetokimTasksMixin:
    """Tasks of a `SetokimForConditionalGeneration`; `processor` is its `SetokimProcessor`, images are PIL images."""

    def caption(self, processor, images, request: str = CAPTION_REQUEST, max_new_tokens: int = 128, **kwargs):
        """A description (str) of an image; or of each of a list."""
        single, images = _as_list(images)
        prompts = [([image], _checked_text(request)) for image in images]
        texts = self._answer(processor, prompts, max_new_tokens, **kwargs)
        return texts[0] if single else texts

    def ask(self, processor, images, questions, max_new_tokens: int = 128, **kwargs):
        """The answer (str) to a question about an image, or about several: then the image is a list of them. For a
        list of questions, `images` is a list with an entry for each; an entry without pictures is `None`."""
        single, prompts = _prompts(images, questions)
        texts = self._answer(processor, prompts, max_new_tokens, **kwargs)
        return texts[0] if single else texts

    def generate_image(self, processor, prompts, max_new_tokens: int | None = None, **kwargs):
        """A PIL image painted from a description, such as "Draw: a red car on a plain blue background."."""
        single, prompts = _as_list(prompts)
        no_images = [None] * len(prompts)
        visual_tokens = self.generate_visual_tokens(processor, no_images, prompts, max_new_tokens, **kwargs)
        images = self._paint(processor, visual_tokens)
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

        What the model generates is sampled, and painted from a few tokens: nothing of it is exactly the image. With
        `keep_unchanged`, generated tokens that stand for an unchanged token of the image give way to it; then the
        painting replaces the image only where it differs from a painting of the image's own tokens. The result has the
        image's size. Without, it is the painting of the generated tokens, at the detokenizer's size.
        """
        single, images = _as_list(images)
        _, instructions = _as_list(instructions)
        features = self.encode_images(processor, images)
        visual_tokens = self.generate_visual_tokens(processor, images, instructions, max_new_tokens, features, **kwargs)
        edited = self.edit_from_tokens(processor, images, visual_tokens, keep_unchanged, features)
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
        `ground_tokens`), without it the generated ones.
        """
        single, images = _as_list(images)
        requests = [SEGMENT_REQUEST.format(_checked_text(expression)) for expression in _as_list(expressions)[1]]
        features = self.encode_images(processor, images)
        visual_tokens = self.generate_visual_tokens(processor, images, requests, max_new_tokens, features, **kwargs)
        masks = self.segment_from_tokens(processor, images, visual_tokens, ground, features)
        return masks[0] if single else masks

    @torch.no_grad()
    def encode_images(self, processor, images):
        """The `SetokimImageFeatures` of an image or of a list: what the methods below take as `image_features`."""
        pixel_values = processor.image_processor(_as_list(images)[1], return_tensors="pt")["pixel_values"]
        return self.model.get_image_features(pixel_values.to(self.input_device), return_dict=True)

    def generate_visual_tokens(
        self, processor, images, texts, max_new_tokens: int | None = None, image_features=None, **kwargs
    ):
        """The visual tokens (n, D) float32, n >= 1, of the image that the answer to a text is made to begin with.

        Args:
            images: what the text is about, as in `ask`: an image, a list of them, or `None`; of a list of texts a list.
            image_features: of all these images, in order (see `encode_images`); without it they are encoded here.
        """
        single, prompts = _prompts(images, texts)
        _refuse_other_results(kwargs)
        limit = kwargs.get("max_visual_tokens")
        check_number("max_visual_tokens", limit)
        if max_new_tokens is None:
            max_new_tokens = (limit or self.config.vision_config.max_tokens) + 2
        image_start = processor.tokenizer.convert_ids_to_tokens(self.config.image_start_token_id)
        inputs = self._inputs(processor, prompts, answer_starts=image_start)
        if image_features is not None:
            inputs.pop("pixel_values", None)
            inputs["mm_encoder_outputs"] = {"image": image_features}
        output = self.generate(
            **inputs, max_new_tokens=max_new_tokens, num_return_sequences=1, return_dict_in_generate=True, **kwargs
        )
        visual_tokens = [painted[0] for painted in output.visual_tokens]
        return visual_tokens[0] if single else visual_tokens

    def edit_from_tokens(self, processor, images, visual_tokens, keep_unchanged: bool = True, image_features=None):
        """The image (PIL) as visual tokens (n, D), which answer an instruction, change it: see `edit_image`."""
        single, images = _as_list(images)
        _, visual_tokens = _as_list(visual_tokens)
        if keep_unchanged:
            features = self.encode_images(processor, images) if image_features is None else image_features
            visual_tokens, before = self._restore_tokens(processor, features, visual_tokens)
            after, shown = self._paint(processor, visual_tokens), _as_shown(processor, images)
            edited = [_replace_changed(*pictures) for pictures in zip(shown, before, after, strict=True)]
        else:
            edited = self._paint(processor, visual_tokens)
        return edited[0] if single else edited

    def segment_from_tokens(self, processor, images, visual_tokens, ground: bool = True, image_features=None):
        """Mask (H, W) bool of what visual tokens (n, D), which answer a request, refer to in an image: see
        `segment`."""
        single, images = _as_list(images)
        _, visual_tokens = _as_list(visual_tokens)
        features = self.encode_images(processor, images) if image_features is None else image_features
        if ground:
            visual_tokens = self.ground_tokens(None, visual_tokens, image_features=features)
        all_logits = self.predict_masks(None, visual_tokens, image_features=features)
        masks = []
        for image, logits in zip(_as_shown(processor, images), all_logits, strict=True):
            size = (image.height, image.width)
            resized = nn.functional.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)
            masks.append((resized[0, 0] > 0).cpu().numpy())
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
            self.input_device
        )

    def _answer(self, processor, prompts, max_new_tokens: int, **kwargs) -> list[str]:
        _refuse_other_results(kwargs)
        inputs = self._inputs(processor, prompts)
        sequences = self.generate(
            **inputs, max_new_tokens=max_new_tokens, num_return_sequences=1, return_dict_in_generate=False, **kwargs
        )
        answers = sequences[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in processor.batch_decode(answers, skip_special_tokens=True)]

    def _paint(self, processor, visual_tokens: list[torch.Tensor]) -> list[Image.Image]:
        return processor.image_processor.postprocess(self.decode_images(visual_tokens))

    def _restore_tokens(self, processor, features, visual_tokens: list[torch.Tensor]) -> tuple[list, list]:
        """The visual tokens with the images' own in place of those that differ by no more than sampling does, and
        paintings of the images' own tokens."""
        own = [self.model.denormalize_tokens(tokens) for tokens in features.visual_tokens]
        before, after = self._paint(processor, own), self._paint(processor, visual_tokens)
        masks = self.model.setok.concept_masks(features.setok_output, size=before[0].size[::-1])  # (I, C, H, W)
        restored = []
        for i, tokens in enumerate(visual_tokens):
            distances = torch.cdist(self.model.normalize_tokens(tokens), features.visual_tokens[i].float())
            distances, nearest = (distances.square() / tokens.shape[1]).min(1)
            difference = torch.from_numpy(_difference(before[i], after[i])).to(masks)
            effects = torch.einsum("chw,hwk->ck", masks[i], difference).abs().amax(1) / masks[i, 0].numel()
            same = (distances < SAME_TOKEN) & (effects[nearest] < SMALL_EFFECT)
            restored.append(torch.where(same[:, None], own[i][nearest], tokens))
        return restored, before


def _as_list(value) -> tuple[bool, list]:
    """Whether it was a single one, and the list."""
    return (False, list(value)) if isinstance(value, (list, tuple)) else (True, [value])


def _checked_text(text) -> str:
    if not isinstance(text, str):
        raise ValueError(f"A question, request, prompt, instruction or expression must be a string, got {text!r}.")
    return text


def _refuse_other_results(options: dict) -> None:
    """Takes what asks for other results than a task's out of the options of `generate`.

    Raises:
        ValueError: it asks for them.
    """
    for name, only in (("num_return_sequences", 1), ("return_dict_in_generate", False)):
        if options.pop(name, None) not in (None, only):
            raise ValueError(
                f"A task gives one result for each input, so that {name} has no place here: call generate() for more."
            )


def _prompts(images, texts) -> tuple[bool, list[tuple[list, str]]]:
    """Whether there is a single text, and for each the images that it is about; see `ask`."""
    single, texts = _as_list(texts)
    texts = [_checked_text(text) for text in texts]
    images = [images] if single else _as_list(images)[1]
    if len(images) != len(texts):
        raise ValueError(
            f"Needed is one text for each entry of images, got {len(images)} images and {len(texts)} texts."
        )
    images = ([] if image is None else _as_list(image)[1] for image in images)
    return single, list(zip(images, texts, strict=True))


def _as_shown(processor, images: list) -> list[Image.Image]:
    """RGB pictures as the image processor reads them (orientation, transparency, paths), at their own size."""
    image_processor = processor.image_processor
    return [
        image_processor.postprocess(image_processor(image, do_resize=False, return_tensors="pt")["pixel_values"])[0]
        for image in images
    ]


def _difference(before: Image.Image, after: Image.Image) -> np.ndarray:
    """(H, W, 3) float32 in [-1, 1]."""
    return (np.asarray(after, dtype=np.float32) - np.asarray(before, dtype=np.float32)) / 255


def _replace_changed(image: Image.Image, before: Image.Image, after: Image.Image) -> Image.Image:
    """The image, with `after` where that differs from `before`; both are paintings of the same size."""
    changed = (np.abs(_difference(before, after)).max(-1) - UNCHANGED) / (CHANGED - UNCHANGED)
    mask = Image.fromarray((255 * changed.clip(0, 1)).round().astype(np.uint8))
    mask = mask.filter(ImageFilter.MaxFilter(5))  # a margin of two pixels
    mask = mask.resize(image.size, Image.Resampling.BILINEAR)
    return Image.composite(after.resize(image.size, Image.Resampling.BICUBIC), image, mask)
