"""Who answers: a Setokim, a SeTok, or any image-text-to-text model of transformers, each in batches.

Row i of a batch gets what it would get alone: texts are greedy, and what is sampled has a generator for each row.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from modeling_setok.tasks_setokim import SEGMENT_REQUEST
from processing import SetokImageProcessor, SetokimProcessor
from training.data.concept_text import learn_concepts
from training.evaluation.benchmark.benchmark import Benchmark, Example
from training.evaluation.benchmark.likelihood import most_likely
from training.evaluation.chats import ends_of, read_chats, visual_token_counts, written_after
from training.loading import configuration, load_whole


@dataclass(frozen=True)
class Answer:
    """What a model gave, in the form that `Benchmark.answer` names, and how many visual tokens it read of all pictures
    of the example (`None` where that is not known); and whether a text was cut at `max_new_tokens`."""

    content: Any
    num_visual_tokens: int | None = None
    is_cut: bool = False


@dataclass(frozen=True)
class Options:
    """How answers are made.

    Attributes:
        max_new_tokens: of a text.
        seed: of what is sampled, together with the example's key.
        generation: of visual tokens (`visual_guidance_scale`, `visual_temperature`, `num_diffusion_steps`), passed on
            to `generate`.
    """

    max_new_tokens: int = 16
    seed: int = 0
    generation: dict = field(default_factory=dict)


class Answerer(ABC):
    """A model that answers.

    Attributes:
        kind: of the model, as people call it.
        gives: kinds of answers that it can give, of those of `Benchmark.answer`.
    """

    kind: str
    gives: frozenset[str]

    def check(self, benchmark: Benchmark) -> None:
        """Raises a ValueError unless this model gives what the benchmark asks for."""
        if benchmark.answer not in self.gives:
            able = [one.kind for one in (Setokim, Setok, ChatModel) if benchmark.answer in one.gives]
            raise ValueError(
                f'{benchmark.name} asks for answers of the kind "{benchmark.answer}", which {self.kind} does not give: '
                f"take it to {' or '.join(able)}."
            )

    @abstractmethod
    def answer(self, kind: str, examples: Sequence[Example], requests: Sequence[str], options: Options) -> list[Answer]:
        """Answers, of a kind in `gives`, to a batch of examples; `requests` are theirs with the form of the answer."""


class ChatModel(Answerer):
    """Any `AutoModelForImageTextToText` whose processor has a chat template: one user turn, the pictures first."""

    kind = "an image-text-to-text model"
    gives = frozenset({"text", "choice"})

    def __init__(self, model: PreTrainedModel, processor):
        if getattr(processor, "chat_template", None) is None:
            raise ValueError(
                f"The processor of {model.config.name_or_path!r} has no chat template, which says how it is asked: put "
                "the one that the model was trained with into its folder, as chat_template.jinja."
            )
        self.model, self.processor = model.eval(), processor

    @torch.no_grad()
    def answer(self, kind, examples, requests, options):
        conversations = [_conversation(*asked) for asked in zip(examples, requests, strict=True)]
        padding_side = "left" if kind == "text" else "right"
        inputs = read_chats(self.model, self.processor, conversations, padding_side)
        if kind == "choice":
            tokenizer = getattr(self.processor, "tokenizer", self.processor)
            contents = most_likely(self.model, tokenizer, inputs, [example.choices for example in examples])
            are_cut = [False] * len(contents)
        else:
            output = self.model.generate(**inputs, max_new_tokens=options.max_new_tokens, do_sample=False, num_beams=1)
            written = written_after(inputs, output)
            contents = [text.strip() for text in self.processor.batch_decode(written, skip_special_tokens=True)]
            are_cut = [end is None for end in ends_of(self.model, written)]
        counts = visual_token_counts(self.model, inputs)
        return [Answer(*values) for values in zip(contents, counts, are_cut, strict=True)]


class Setokim(ChatModel):
    """A Setokim: texts as it `ask`s, masks and pictures by its own methods."""

    kind = "a Setokim"
    gives = frozenset({"text", "choice", "mask", "image"})

    model: SetokimForConditionalGeneration
    processor: SetokimProcessor

    @torch.no_grad()
    def answer(self, kind, examples, requests, options):
        if kind == "mask":
            return self._segment(examples, requests, options)
        if kind == "image":
            return self._paint(examples, requests, options)
        return super().answer(kind, examples, requests, options)

    def _segment(self, examples, requests, options):
        images = [_only_picture(example) for example in examples]
        features = self.model.encode_images(self.processor, images)
        requests = [
            request if example.turns else SEGMENT_REQUEST.format(request)
            for example, request in zip(examples, requests, strict=True)
        ]
        tokens = self._generate(examples, images, requests, options, features)
        masks = self.model.segment_from_tokens(self.processor, images, tokens, image_features=features)
        return [Answer(*pair) for pair in zip(masks, _token_counts(features), strict=True)]

    def _paint(self, examples, requests, options):
        if not any(example.images for example in examples):
            tokens = self._generate(examples, [None] * len(examples), requests, options)
            painted = self.processor.image_processor.postprocess(self.model.decode_images(tokens))
            return [Answer(picture, 0) for picture in painted]
        answers = self._edit(examples, [_only_picture(example) for example in examples], requests, options)
        for turn in range(max(len(example.then) for example in examples)):
            further = [number for number, example in enumerate(examples) if turn < len(example.then)]
            asked, images = [examples[number] for number in further], [answers[number].content for number in further]
            edited = self._edit(asked, images, [example.then[turn] for example in asked], options)
            for number, answer in zip(further, edited, strict=True):
                answers[number] = replace(answers[number], content=answer.content)
        return answers

    def _edit(self, examples, images, requests, options):
        features = self.model.encode_images(self.processor, images)
        tokens = self._generate(examples, images, requests, options, features)
        edited = self.model.edit_from_tokens(self.processor, images, tokens, image_features=features)
        return [Answer(*pair) for pair in zip(edited, _token_counts(features), strict=True)]

    def _generate(self, examples, images, requests, options: Options, features=None) -> list[torch.Tensor]:
        generators = [_generator(example, options.seed) for example in examples]
        return self.model.generate_visual_tokens(
            self.processor, images, list(requests), image_features=features, generator=generators, **options.generation
        )


class Setok(Answerer):
    """A SeTok: paints a picture again by its detokenizer, or says by its concept names what is in it.

    Args:
        text_encoder: what its concept names were encoded with (see `learn_concepts`); needed only for names that
            its concept bank lacks.
    """

    kind = "a SeTok"
    gives = frozenset({"reconstruction", "choice"})

    def __init__(
        self, model: SetokForPreTraining, image_processor: SetokImageProcessor, text_encoder: str | None = None
    ):
        self.model, self.image_processor, self.text_encoder = model.eval(), image_processor, text_encoder

    @torch.no_grad()
    def answer(self, kind, examples, requests, options):
        images = [_only_picture(example) for example in examples]
        pixel_values = self.image_processor(images, return_tensors="pt")["pixel_values"]
        outputs = self.model.setok(pixel_values.to(self.model.device), return_dict=True)
        if kind == "choice":
            names = (name for example in examples for name in example.choices)
            learn_concepts(self.model, names, self.text_encoder)
            scores = self.model.concept_logits(outputs.last_hidden_state, outputs.token_mask)
            places = {name: place for place, name in enumerate(self.model.config.concept_names)}
            contents = [
                max(example.choices, key=lambda name: row[places[name]])
                for example, row in zip(examples, scores.tolist(), strict=True)
            ]
        else:
            painted = self.model.detokenize(outputs.last_hidden_state, outputs.token_mask)
            contents = self.image_processor.postprocess(painted)
        return [Answer(*pair) for pair in zip(contents, outputs.num_tokens.tolist(), strict=True)]


def load_answerer(
    name: str, device: str | torch.device, trust_remote_code: bool = False, text_encoder: str | None = None
) -> Answerer:
    """Who answers with the model of a folder or Hub id, on a device, in the type that its weights are saved in;
    `text_encoder`: see `Setok`.

    Raises:
        ValueError: no such model in reach, one of another kind, or without some of its weights.
    """
    config = configuration(name)
    kind, trusted = config.get("model_type"), {"trust_remote_code": trust_remote_code}
    if kind == "setok":
        model = load_whole(SetokForPreTraining.from_pretrained, name).to(device)
        return Setok(model, SetokImageProcessor.from_pretrained(name), text_encoder)
    if kind == "setokim":
        model = load_whole(SetokimForConditionalGeneration.from_pretrained, name).to(device)
        return Setokim(model, SetokimProcessor.from_pretrained(name))
    has_code = trust_remote_code and AutoModelForImageTextToText.__name__ in config.get("auto_map", ())
    if not has_code and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(f"{name} is a {kind}: name a Setokim, a SeTok or an image-text-to-text model.")
    model = load_whole(AutoModelForImageTextToText.from_pretrained, name, may_have_more=True, **trusted).to(device)
    return ChatModel(model, AutoProcessor.from_pretrained(name, **trusted))


def _conversation(example: Example, request: str) -> list[dict]:
    """The turns of an example with its pictures in their places."""
    pictures = iter(example.pictures())
    turns = example.turns
    if not turns:
        content = [*({"type": "image"} for _ in example.images), {"type": "text", "text": request}]
        turns = ({"role": "user", "content": content},)
    return [
        turn
        | {
            "content": [
                part | {"image": next(pictures)} if part["type"] == "image" else part for part in turn["content"]
            ]
        }
        for turn in turns
    ]


def _only_picture(example: Example):
    if len(example.images) != 1:
        raise ValueError(
            f"{example.key}: {len(example.images)} pictures, where each example of a batch must have one of them to "
            "edit, to segment or to reconstruct, or none has any and all are painted."
        )
    return example.pictures()[0]


def _token_counts(features) -> list[int]:
    return [len(tokens) for tokens in features.visual_tokens]


def _generator(example: Example, seed: int) -> torch.Generator:
    """Of what is sampled for an example, whatever stands beside it in a batch. (Of a seed 32 bits count.)"""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {example.key}".encode()))
