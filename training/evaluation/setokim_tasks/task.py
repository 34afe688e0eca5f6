"""What a task of the evaluation is, and what it has at hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from PIL import Image

from modeling_setok import SetokimForConditionalGeneration, SetokimImageFeatures
from processing import SetokimProcessor
from training.data import EmojiScenes, Scene, concept_names
from training.data.emoji_scenes.language import NUMBERS, noun, plural
from training.evaluation.metrics import Mentions, Metric
from training.evaluation.report import Row
from training.evaluation.setokim_tasks.judge import Judge

DRAW_STRIDE = 1_000_000  # between the seeds of two draws: more than there are scenes


@dataclass(frozen=True)
class Example:
    """A scene and the row of a task about it."""

    index: int
    scene: Scene
    row: dict

    @property
    def request(self) -> str:
        """What the user says, beside pictures."""
        return self.row["messages"][0]["content"][-1]["text"]


# Of one example: of each measure its key, its metric, and the predictions and references to add. The names of the
# metric's results follow the key: "caption" and ObjectF1 give the result `caption_f1`.
Observations = list[tuple[str, type[Metric], Sequence, Sequence]]


@dataclass(frozen=True)
class Context:
    """The model that is measured, on which scenes, and who judges what it paints."""

    model: SetokimForConditionalGeneration
    processor: SetokimProcessor
    judge: Judge
    scenes: EmojiScenes
    generation: dict
    draw: int = 0  # how often what is sampled was sampled before; with another, other random numbers

    @property
    def first_draw(self) -> bool:
        """Whether to measure what is not sampled, too."""
        return self.draw == 0

    def examples(self, scene_task: str, indices: Sequence[int]) -> list[Example]:
        """Some scenes with their rows of a task of EmojiScenes."""
        rows = replace(self.scenes, tasks=(scene_task,))
        return [Example(index, rows.scene(index), rows[index]) for index in indices]

    def sampling(self, examples: list[Example]) -> dict:
        """How the visual tokens that answer examples are sampled: each with a generator of its own."""
        first = self.scenes.seed + self.draw * DRAW_STRIDE
        seeds = (first + example.index for example in examples)
        generators = [torch.Generator(self.model.device).manual_seed(seed) for seed in seeds]
        return {"generator": generators, **self.generation}

    def visual_tokens(
        self, examples: list[Example], images: list[Image.Image], requests: list[str]
    ) -> tuple[list[torch.Tensor], SetokimImageFeatures]:
        """The visual tokens that answer a request about an image for each example, and the features of the images."""
        features = self.model.encode_images(self.processor, images)
        options = {"image_features": features, **self.sampling(examples)}
        return self.model.generate_visual_tokens(self.processor, images, requests, **options), features

    @cached_property
    def mentions(self) -> Mentions:
        """Counts the objects of the scenes' vocabulary that a text mentions."""
        names = concept_names(self.scenes.config.vocabulary)
        return Mentions({phrase(name): name for name in names for phrase in (noun, plural)}, NUMBERS)


@dataclass(frozen=True)
class Task:
    """One of the tasks on which a Setokim is measured.

    Attributes:
        name: of the task, and what the keys of its results begin with.
        scene_task: the task of EmojiScenes whose rows it reads.
        observe: runs the model on a batch of examples; its docstring names the results.
        rows: of the table of results.
        sampled: whether the model's answer depends on random numbers.
    """

    name: str
    scene_task: str
    observe: Callable[[Context, list[Example]], list[Observations]]
    rows: Sequence[Row]
    sampled: bool = False
