"""Chat messages with images and masks to the inputs of Setokim."""

import copy
import os
import re
from collections import Counter
from itertools import groupby
from typing import Any

import numpy as np
from tokenizers import normalizers
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessorMixin

IMAGE_START, IMAGE, IMAGE_END, MASK = "[Img]", "<image>", "[/Img]", "<mask>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
PAD = "<|pad|>"
SPECIAL_TOKENS = (IMAGE_START, IMAGE, IMAGE_END, MASK, TURN_START, TURN_END)
ROLES, PARTS = ("system", "user", "assistant"), ("text", "image", "mask", "image_url")
# Written into a special token that stands in somebody's text, and taken out by the tokenizer's normalizer, which comes
# after its search for special tokens: of the token ordinary characters are left. Unicode keeps both code points out of
# all text that is exchanged.
BREAK = "\ufdd0\ufdd1"
SURROGATE = re.compile("[\ud800-\udfff]")
LONE_IMAGE = re.compile(rf"(?<!{re.escape(IMAGE_START)}){IMAGE}(?!{re.escape(IMAGE_END)})")
# Of the tokenizer, which trainers of text ask the processor for
TOKENIZER_ATTRIBUTES = (
    "pad_token", "pad_token_id", "eos_token", "eos_token_id", "bos_token", "bos_token_id", "padding_side"
)  # fmt: skip

# ChatML. What the model is to say, with the end of its turn, stands inside `generation`.
CHAT_TEMPLATE = """\
{%- macro write(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'text' -%}
                {{- part.text -}}
            {%- elif part.type == 'image' -%}
                {{- '[Img]<image>[/Img]' -}}
            {%- elif part.type == 'mask' -%}
                {{- '[Img]<mask>[/Img]' -}}
            {%- else -%}
                {{- raise_exception("A part of a message has the type text, image or mask, got: " ~ part) -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}

{%- for message in messages -%}
    {%- if message.role not in ('system', 'user', 'assistant') -%}
        {{- raise_exception("The role of a message is system, user or assistant, got: " ~ message.role) -}}
    {%- endif -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.role == 'assistant' -%}
        {%- generation -%}
            {{- write(message.content) + '<|im_end|>' -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- write(message.content) + '<|im_end|>' -}}
    {%- endif -%}
    {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


class SetokimProcessor(ProcessorMixin):
    """
    Processor of Setokim: an image processor, a tokenizer and the chat template that joins them.

    `processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)` is the usual
    way in. A message is `{"role": "system" | "user" | "assistant", "content": ...}`; its content is a string or a list
    of the parts

    - `{"type": "text", "text": str}`;
    - `{"type": "image", "image": picture}` (or `"url"`, `"path"`, `"base64"`), in user and assistant turns;
    - `{"type": "mask"}`, in an assistant turn: the visual tokens of what a mask covers (training only).

    Text is text: a special token in it, whoever wrote it, is read as its characters; only the template and the parts
    of type image and mask make marks. (Where the template's text is not tokenised at once, such a token holds two
    invisible characters, which this processor's tokenizer leaves out.)

    An image becomes `[Img]<image>[/Img]`, ONE `<image>` whatever the number of its visual tokens, which only the model
    knows; a mask becomes `[Img]<mask>[/Img]`.

    `processor(images, text)` takes texts that the template has written, or that hold an `<image>` for each image as
    LLaVA's do, and all their images in reading order over the batch, nested in any way. It returns, as tensors and
    padded on the tokenizer's side (left, the side for generation):

    - `input_ids`, `attention_mask`: (B, T) int64; no special token is added to the text, the template has them all;
    - `pixel_values`: (number of images, 3, H, W) float32, if there are images.

    The keywords of tokenizer and image processor (`padding`, `truncation`, `max_length`, ...) override the defaults.
    `pad_token_id`, `eos_token_id` and their like are the tokenizer's, whose `image_token` is `<image>`.

    Args:
        image_processor: e.g. [`SetokImageProcessor`].
        tokenizer: fast, with a pad token and the special tokens `[Img]`, `<image>`, `[/Img]`, `<mask>`,
            `<|im_start|>`, `<|im_end|>`; [`SetokimProcessor.from_parts`] adds them to any other. It is made to leave
            out `BREAK`.
        chat_template: by default ChatML; a replacement must write images and masks in the same way.

    Raises:
        ValueError: a tokenizer that is not fast or without these tokens; messages of another form, or with a special
            token that the tokenizer cannot read as characters; another number of images than of `<image>`, a `<mask>`
            that does not stand between `[Img]` and `[/Img]`, an `<image>` with one of them alone, or a truncation that
            cuts off any of the three.
    """

    text_kwargs = {"add_special_tokens": False, "padding": True, "return_tensors": "pt", "return_token_type_ids": False}
    image_token, image_start_token, image_end_token, mask_token = IMAGE, IMAGE_START, IMAGE_END, MASK

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
    ):
        if not tokenizer.is_fast:
            raise ValueError(
                f"Setokim needs a fast tokenizer, and {type(tokenizer).__name__} is none: load it with AutoTokenizer."
            )
        missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.added_tokens_encoder]
        missing += ["a pad token"] if tokenizer.pad_token is None else []
        if missing:
            raise ValueError(
                f"The tokenizer lacks {', '.join(missing)}; SetokimProcessor.from_parts(image_processor, tokenizer) "
                "adds what is missing."
            )
        super().__init__(image_processor, tokenizer, chat_template=chat_template or _chat_template(tokenizer))
        if "image_token" not in tokenizer.SPECIAL_TOKENS_ATTRIBUTES:  # pipelines look for it there
            tokenizer.SPECIAL_TOKENS_ATTRIBUTES = [*tokenizer.SPECIAL_TOKENS_ATTRIBUTES, "image_token"]
        tokenizer.image_token = IMAGE
        _leave_out_breaks(tokenizer)

    def __getattr__(self, name: str):
        if name in TOKENIZER_ATTRIBUTES:
            return getattr(self.tokenizer, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

    @classmethod
    def from_parts(cls, image_processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase) -> "SetokimProcessor":
        """
        Join an image processor and the fast tokenizer of any language model. The processor gets a copy of the
        tokenizer with the special tokens and the pad token that it lacks, `<|im_end|>` as its end of sequence, and left
        padding. The language model's embeddings must then be resized to `len(processor.tokenizer)`.
        """
        tokenizer = copy.deepcopy(tokenizer)
        new = [token for token in SPECIAL_TOKENS if token not in tokenizer.all_special_tokens]
        tokenizer.add_special_tokens({"extra_special_tokens": new}, replace_extra_special_tokens=False)
        if tokenizer.pad_token is None:
            tokenizer.add_special_tokens({"pad_token": PAD})
        tokenizer.eos_token = TURN_END
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # of the two, the latter is saved
        tokenizer.chat_template = _chat_template(tokenizer)
        return cls(image_processor, tokenizer)

    @property
    def model_input_names(self) -> list[str]:
        # Setokim refuses padded pictures: their pixel_mask is no input of its model.
        return [name for name in super().model_input_names if name != "pixel_mask"]

    @property
    def image_start_token_id(self) -> int:
        """Id of `[Img]`."""
        return self.tokenizer.convert_tokens_to_ids(IMAGE_START)

    @property
    def image_token_id(self) -> int:
        """Id of `<image>`."""
        return self.tokenizer.convert_tokens_to_ids(IMAGE)

    @property
    def image_end_token_id(self) -> int:
        """Id of `[/Img]`."""
        return self.tokenizer.convert_tokens_to_ids(IMAGE_END)

    @property
    def mask_token_id(self) -> int:
        """Id of `<mask>`."""
        return self.tokenizer.convert_tokens_to_ids(MASK)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> list[str]:
        # A fast tokenizer saves the padding and truncation of its last call, which are no settings of the processor.
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()
        return super().save_pretrained(save_directory, **kwargs)

    def apply_chat_template(self, conversation: list, *args, **kwargs) -> str | list[str] | BatchFeature | Any:
        """As `ProcessorMixin.apply_chat_template`; keys that are None (Arrow gives all parts the same) do not count."""
        if not isinstance(conversation, (list, tuple)) or not conversation:
            raise ValueError(
                f"messages must be a list of at least one message, or of such lists, got {conversation!r}."
            )
        conversation = _without_nulls([getattr(item, "messages", item) for item in conversation])
        is_batch, special = isinstance(conversation[0], list), self._special_tokens()
        for messages in conversation if is_batch else [conversation]:
            _check_messages(messages)
            for message in messages:
                self._keep_text(message, special)
        return super().apply_chat_template(conversation, *args, **kwargs)

    def _special_tokens(self) -> list[str]:
        """All that the tokenizer has, longest first."""
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return sorted(added | set(self.tokenizer.all_special_tokens), key=lambda token: (-len(token), token))

    def _keep_text(self, message: dict, special: list[str]) -> None:
        """Breaks the special tokens in a message's texts, also those that parts side by side would make together.

        Raises:
            ValueError: the tokenizer makes a special token even of the characters alone.
        """
        tokenizer = self.tokenizer
        pattern = re.compile(f"(?={'|'.join(map(re.escape, [BREAK, *special]))})")
        content = message["content"]
        is_string = isinstance(content, str)
        parts = [{"type": "text", "text": content}] if is_string else content
        for is_text, group in groupby(parts, key=lambda part: part["type"] == "text"):
            group = list(group) if is_text else []
            texts = [part["text"] for part in group]
            if found := SURROGATE.search("".join(texts)):
                raise ValueError(f"A message has {found[0]!r} in its text, half a character: leave it out.")
            broken = _insert_breaks(pattern, texts)
            if broken == texts:
                continue
            ids = tokenizer("".join(broken), add_special_tokens=False)["input_ids"]
            unknown = {tokenizer.unk_token_id}  # which characters may well become
            if made := {*ids} & {*tokenizer.convert_tokens_to_ids(special)} - unknown:
                tokens = " and ".join(tokenizer.convert_ids_to_tokens(sorted(made)))
                raise ValueError(
                    f"A message has {tokens} in its text, which {type(tokenizer).__name__} cannot read as ordinary "
                    "characters: leave it out, or write it in another way."
                )
            for part, text in zip(group, broken, strict=True):
                part["text"] = text
        if is_string:
            message["content"] = parts[0]["text"]

    def prepare_inputs_layout(self, images: ImageInput | None = None, text=None, **kwargs) -> tuple:
        images, text, *others = super().prepare_inputs_layout(images=images, text=text, **kwargs)
        images = self.image_processor._prepare_images_structure(images) if images is not None else None
        if isinstance(text, list) and not kwargs.get("sanitize_control_tokens"):  # which tells users' words apart
            text = [LONE_IMAGE.sub(_enclosed(IMAGE), sample) if isinstance(sample, str) else sample for sample in text]
        return images or None, text, *others  # a flat list; no images at all are None

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs) -> None:
        if videos is not None or audio is not None:
            raise ValueError("Setokim reads images and text, neither videos nor audio.")
        if images is None and text is None:
            raise ValueError("There is neither an image nor a text to process.")
        if text is None:
            return
        if not text or not all(isinstance(sample, str) for sample in text):
            raise ValueError(f"`text` must be a string or a list of strings with at least one, got {text!r}.")

        for token in (IMAGE, MASK):
            loose = sum(sample.count(token) - sample.count(_enclosed(token)) for sample in text)
            if loose:
                raise ValueError(
                    f"{loose} {token} in the text do not stand between {IMAGE_START} and {IMAGE_END}. Write "
                    f"{_enclosed(token)} or, better, let processor.apply_chat_template write the text."
                )
        num_placeholders = sum(sample.count(IMAGE) for sample in text)
        num_images = len(images) if images is not None else 0
        if num_images != num_placeholders:
            raise ValueError(
                f"The text has {num_placeholders} {IMAGE} and there are {num_images} images. Pass one image for each "
                f"image part of the messages (one {_enclosed(IMAGE)} of the text), in reading order over the batch."
            )

    def _process_images(self, images: list, **kwargs) -> tuple[BatchFeature, list[str]]:
        """The base class's, but for images of shape (H, W), too; an `<image>` stays one `<image>`."""
        inputs = self.image_processor(images, **kwargs)
        pixel_mask = inputs.pop("pixel_mask", None)
        if pixel_mask is not None and not np.asarray(pixel_mask).all():
            raise ValueError(
                "Setokim reads images of one size, and these were padded to the largest of them: give the image "
                'processor a size of {"height": ..., "width": ...}.'
            )
        return inputs, [IMAGE] * len(images)

    def _check_special_mm_tokens(self, text: list[str], text_inputs: BatchFeature, modalities: list[str]) -> None:
        """Raises where truncation has cut off part of an image or mask."""
        for sample, ids in zip(text, text_inputs["input_ids"], strict=True):
            ids = ids.tolist() if hasattr(ids, "tolist") else ids
            triples = Counter(zip(ids, ids[1:], ids[2:], strict=False))
            for token in (IMAGE, MASK):
                expected = sample.count(_enclosed(token))
                found = triples[tuple(self.tokenizer.convert_tokens_to_ids([IMAGE_START, token, IMAGE_END]))]
                if found != expected:
                    raise ValueError(
                        f"Of {expected} {_enclosed(token)} of a text {found} are left after truncation to {len(ids)} "
                        "tokens. Increase max_length, turn truncation off, or leave this text out."
                    )


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template, with a beginning of sequence where the language model is used to one."""
    bos, ids = tokenizer.bos_token, tokenizer("")["input_ids"]
    starts_with_bos = bos not in (None, TURN_START) and ids[:1] == [tokenizer.bos_token_id]
    return "{{- bos_token -}}\n" + CHAT_TEMPLATE if starts_with_bos else CHAT_TEMPLATE


def _enclosed(token: str) -> str:
    """The token between the start and the end of an image, as texts have it."""
    return IMAGE_START + token + IMAGE_END


def _leave_out_breaks(tokenizer: PreTrainedTokenizerBase) -> None:
    """Has the tokenizer take `BREAK` out of a text, once it has found the special tokens."""
    backend = tokenizer.backend_tokenizer
    own = [] if backend.normalizer is None else [backend.normalizer]
    if not own or BREAK in own[0].normalize_str(BREAK):
        backend.normalizer = normalizers.Sequence([normalizers.Replace(BREAK, ""), *own])


def _insert_breaks(pattern: re.Pattern, texts: list[str]) -> list[str]:
    """Texts that stand side by side, with a `BREAK` after the first character of each match in all of them."""
    positions = [match.start() + 1 for match in pattern.finditer("".join(texts))]
    broken, start = [], 0
    for text in texts:
        inside = [position - start for position in positions if start < position <= start + len(text)]
        edges = [0, *inside, len(text)]
        broken.append(BREAK.join(text[i:j] for i, j in zip(edges[:-1], edges[1:], strict=True)))
        start += len(text)
    return broken


def _check_messages(messages: Any) -> None:
    """Raises unless these are messages as the class describes them."""
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"messages must be a list of at least one message, got {messages!r}.")
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise ValueError(f'A message must be {{"role": ..., "content": ...}}, got {message!r}.')
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise ValueError(f"The role of a message is system, user or assistant, got: {role!r}.")
        if isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise ValueError(f"The content of a message must be a string or a list of parts, got {content!r}.")
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in PARTS or (kind == "image_url" and kind not in part):
                raise ValueError(f"A part of a message has the type text, image or mask, got: {part!r}.")
            if kind == "text" and not isinstance(part.get("text"), str):
                raise ValueError(f"A part of the type text needs `text`, a string, got: {part!r}.")
            if kind == "mask" and role != "assistant":
                raise ValueError(
                    f"A part of the type mask is what an assistant says, but the role of its message is {role!r}."
                )


def _without_nulls(value: Any) -> Any:
    """A copy of nested lists and dictionaries without the keys whose value is None."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_nulls(item) for item in value]
    return value
