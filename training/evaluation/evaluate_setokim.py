"""Measures a Setokim on EmojiScenes.

python -m training.evaluation.evaluate_setokim \\
  --model model_cards/setokim-emoji-tiny --setok model_cards/setok-emoji-tiny
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration, SetokModelOutput
from processing import SetokImageProcessor, SetokimProcessor
from training.data import EmojiScenes, Scene, SceneConfig, concept_names
from training.data.emoji_scenes.language import NUMBERS, background, noun, plural
from training.data.emoji_scenes.scenes import PALETTE, scene_rng
from training.data.emoji_scenes.tasks import EDITS, QUESTIONS, REFERRING_REQUESTS, Draw, presence_question
from training.evaluation.metrics import (
    AnswerAccuracy,
    AskedFound,
    MeanAbsoluteError,
    Mentions,
    Metric,
    ObjectF1,
    ReferringIoU,
    YesNo,
    best_union,
    upsample_labels,
)
from training.evaluation.report import HELD_OUT, Row, choose_device, format_rows, write_results


@torch.no_grad()
def evaluate_setokim(
    model: SetokimForConditionalGeneration,
    processor: SetokimProcessor,
    setok: SetokForPreTraining,
    num_scenes: int = 500,
    tasks: Sequence[str] | None = None,
    config: SceneConfig | None = None,
    split: str = "test",
    seed: int = 0,
    batch_size: int = 32,
    **generation,
) -> dict[str, float]:
    """Measures what a Setokim says, paints and outlines on EmojiScenes.

    Args:
        setok: judges the painted pictures: its concept bank must have the names of the scenes' objects, and its image
            processor be the processor's. It also gives the reconstructions and clusters to compare with.
        num_scenes: each task is measured once on each of them.
        tasks: names in `TASKS`; all by default.
        config: what the scenes look like; by default 1 to 6 objects of the tiny vocabulary, in the size of the image
            processor.
        split, seed: of the scenes; the seed is also that of the sampled visual tokens. Each picture has its own
            generator, so that the batch size does not matter.
        generation: how visual tokens are sampled (`visual_guidance_scale`, `visual_temperature`,
            `num_diffusion_steps`): passed on to the model's `generate_image`, `edit_image` and `segment`.

    Returns:
        Over all scenes, and with the prefix `held_out_` over those with a pair of objects that no training scene has:

        - `num_scenes`;
        - caption: `caption_f1`, `_precision`, `_recall` and `_exact` of the objects named (see `ObjectF1`);
          `caption_background_accuracy`, whether it has the true words for the background;
        - question, two_images, text_only: `question_accuracy` and `question_majority` (see `AnswerAccuracy`), and by
          type `question_counting_accuracy` …;
        - presence: two questions per scene, for a random object that is there and for one that is not;
          `presence_accuracy`, `_precision`, `_recall`, `_f1` and `_yes_ratio` (see `YesNo`);
        - text_to_image: `text_to_image_found`, the part of the objects asked for that SeTok finds in the painted
          picture, and `_found_chance` (see `AskedFound`); `text_to_image_background_accuracy`. The same with
          `text_to_image_scene_` in the scene itself, and with `text_to_image_repainted_` in SeTok's reconstruction of
          the scene;
        - edit: `edit_l1`, the distance of the edited picture from the true result (pixels in [0, 1]). The same with
          `edit_painted_` of the painting alone (`keep_unchanged=False`), with `edit_unchanged_` of the input, with
          `edit_repainted_` of SeTok's reconstruction of the input, and with `edit_result_` of its reconstruction of the
          true result. `edit_found`, of the objects to add or to put in another's place, and `_found_chance`;
          `edit_background_accuracy` of the backgrounds to recolour. By kind of edit `edit_add_l1`,
          `edit_unchanged_add_l1` …;
        - referring: `referring_ciou` and `_giou` (see `ReferringIoU`). The same with `referring_ungrounded_` for the
          mask from the tokens as they were generated (`ground=False`), with `referring_everything_` for a mask of the
          whole picture, and with `referring_clusters_` for the best union of SeTok's clusters.

    Raises:
        ValueError: an unknown task, or names that SeTok's concept bank lacks.
    """
    tasks = list(TASKS) if tasks is None else tasks
    if isinstance(tasks, str) or not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f"tasks must be a sequence of some of {', '.join(TASKS)}; got {tasks!r}.")
    config = config or SceneConfig(image_size=processor.image_processor.size["height"])
    if lacking := sorted(set(concept_names(config.vocabulary)) - set(setok.config.concept_names or ())):
        raise ValueError(f"SeTok's concept bank lacks {lacking}; choose a SeTok that was trained on the scenes' names.")
    scenes = EmojiScenes(split, num_scenes, config, seed=seed)
    held_out = [scenes.scene(index).has_held_out_pair for index in range(num_scenes)]
    evaluation = _Evaluation(model, processor, _Judge(setok, processor.image_processor), scenes, generation)
    groups: dict[str, dict[tuple[str, type[Metric]], Metric]] = {"": {}, HELD_OUT: {}}
    were_training = {module: module.training for module in (model, setok)}
    try:
        model.eval()
        setok.eval()
        for task in tasks:
            for start in tqdm(range(0, num_scenes, batch_size), desc=task, leave=False):
                indices = range(start, min(start + batch_size, num_scenes))
                for index, observations in zip(indices, evaluation.observe(task, indices), strict=True):
                    for prefix in ("", HELD_OUT) if held_out[index] else ("",):
                        for key, metric, predictions, references in observations:
                            metric = groups[prefix].setdefault((key, metric), metric())
                            metric.add_batch(predictions=predictions, references=references)
    finally:
        for module, was_training in were_training.items():
            module.train(was_training)
    results = {"num_scenes": num_scenes} | ({f"{HELD_OUT}num_scenes": sum(held_out)} if any(held_out) else {})
    for prefix, metrics in groups.items():
        for (key, _), metric in metrics.items():
            results |= {f"{prefix}{key}_{name}": value for name, value in metric.compute().items()}
    return results


@dataclass(frozen=True)
class _Example:
    """A scene and the row of a task about it."""

    index: int
    scene: Scene
    row: dict

    @property
    def request(self) -> str:
        """What the user says, beside pictures."""
        return self.row["messages"][0]["content"][-1]["text"]


# Of one scene: the key of a measure, its metric, and the predictions and references to add.
_Observations = list[tuple[str, type[Metric], Sequence, Sequence]]


@dataclass(frozen=True)
class _Evaluation:
    """Runs the model on batches of examples: one method per task gives the observations of each example."""

    model: SetokimForConditionalGeneration
    processor: SetokimProcessor
    judge: "_Judge"
    scenes: EmojiScenes
    generation: dict

    def observe(self, task: str, indices: Sequence[int]) -> list[_Observations]:
        row_task, measure = TASKS[task]
        rows = replace(self.scenes, tasks=(row_task,))
        return measure(self, [_Example(index, rows.scene(index), rows[index]) for index in indices])

    def caption(self, examples: list[_Example]) -> list[_Observations]:
        captions = self.model.caption(self.processor, [example.row["images"][0] for example in examples])
        observations = []
        for example, caption in zip(examples, captions, strict=True):
            told, true = caption.rpartition(" on ")[2], background(example.scene)
            observations.append(
                [
                    ("caption", ObjectF1, [self.mentions(caption)], [example.scene.names]),
                    ("caption_background", AnswerAccuracy, [told], [(None, true)]),
                ]
            )
        return observations

    def answers(self, examples: list[_Example]) -> list[_Observations]:
        """Questions about one picture, two or none."""
        answers = self.model.ask(
            self.processor, [example.row["images"] for example in examples], [example.request for example in examples]
        )
        observations = []
        for example, answer in zip(examples, answers, strict=True):
            truth = example.row["messages"][1]["content"][0]["text"]
            reference = (example.row["question_type"], truth)
            observations.append([(example.row["task"], AnswerAccuracy, [answer], [reference])])
        return observations

    def presence(self, examples: list[_Example]) -> list[_Observations]:
        pictures, questions = [], []
        for example in examples:
            draw = self._draw(example)
            for name in (draw.one_of(example.scene.names), draw.absent_names(example.scene)[0]):
                pictures.append(example.row["images"][0])
                questions.append(presence_question(name))
        answers = self.model.ask(self.processor, pictures, questions)
        return [[("presence", YesNo, answers[i : i + 2], ["yes", "no"])] for i in range(0, len(answers), 2)]

    def text_to_image(self, examples: list[_Example]) -> list[_Observations]:
        requests = [example.request for example in examples]
        truths = [example.row["images"][0] for example in examples]
        candidates = {
            "text_to_image": self.model.generate_image(self.processor, requests, **self._sampling(examples)),
            "text_to_image_scene": truths,
            "text_to_image_repainted": self.judge.repaint(truths),
        }
        observations = [[] for _ in examples]
        for key, pictures in candidates.items():
            scores = self.judge.scores(pictures)
            for i, example in enumerate(examples):
                observations[i] += [
                    self._found(key, scores[i], example.scene.names, example.scene.names),
                    _background(key, pictures[i], example.scene.background[1]),
                ]
        return observations

    def edit(self, examples: list[_Example]) -> list[_Observations]:
        requests = [example.request for example in examples]
        sources, truths = (list(side) for side in zip(*(example.row["images"] for example in examples), strict=True))
        candidates = {
            "edit": self.model.edit_image(self.processor, sources, requests, **self._sampling(examples)),
            "edit_painted": self.model.edit_image(
                self.processor, sources, requests, keep_unchanged=False, **self._sampling(examples)
            ),
            "edit_unchanged": sources,
            "edit_repainted": self.judge.repaint(sources),
            "edit_result": self.judge.repaint(truths),
        }
        observations = [[] for _ in examples]
        for key, pictures in candidates.items():
            scores = self.judge.scores(pictures)
            for i, example in enumerate(examples):
                kind = example.row["question_type"]
                error = (MeanAbsoluteError, _pixels(pictures[i], truths[i].size), _pixels(truths[i]))
                observations[i] += [(key, *error), (f"{key}_{kind}", *error)]
                if kind == "recolour":
                    colour = example.request.rstrip(".").split()[-1]
                    observations[i].append(_background(key, pictures[i], colour))
                elif kind != "remove":
                    *replaced, asked = self.mentions(example.request)
                    shown = Counter(example.scene.names) - Counter(replaced) + Counter([asked])
                    observations[i] += [
                        self._found(key, scores[i], [asked], shown),
                        self._found(f"{key}_{kind}", scores[i], [asked], shown),
                    ]
        return observations

    def referring(self, examples: list[_Example]) -> list[_Observations]:
        pictures = [example.row["images"][0] for example in examples]
        expressions = [_EXPRESSION.fullmatch(example.request)[1] for example in examples]
        masks = self.model.segment(self.processor, pictures, expressions, **self._sampling(examples))
        ungrounded = self.model.segment(self.processor, pictures, expressions, ground=False, **self._sampling(examples))
        clusters_of_pictures = self.judge.clusters(pictures)
        observations = []
        for example, mask, other, clusters in zip(examples, masks, ungrounded, clusters_of_pictures, strict=True):
            truth = np.asarray(example.row["masks"][0]) > 0
            candidates = {
                "referring": mask,
                "referring_ungrounded": other,
                "referring_everything": np.ones_like(truth),
                "referring_clusters": best_union(upsample_labels(clusters, truth.shape), truth),
            }
            observations.append([(key, ReferringIoU, [given], [truth]) for key, given in candidates.items()])
        return observations

    @cached_property
    def mentions(self) -> Mentions:
        names = concept_names(self.scenes.config.vocabulary)
        return Mentions({phrase(name): name for name in names for phrase in (noun, plural)}, NUMBERS)

    def _draw(self, example: _Example) -> Draw:
        rng = scene_rng(self.scenes.split, example.index, self.scenes.seed, stream="presence_evaluation")
        return Draw(rng, self.scenes.config, allow_held_out=True)

    def _sampling(self, examples: list[_Example]) -> dict:
        seeds = (self.scenes.seed + example.index for example in examples)
        generators = [torch.Generator(self.model.device).manual_seed(seed) for seed in seeds]
        return {"generator": generators, **self.generation}

    def _found(self, key: str, scores: Tensor, asked: Iterable[str], shown: Iterable[str]) -> tuple:
        asked = {self.judge.concept_index[name] for name in asked}
        return key, AskedFound, scores[None], [(asked, len(set(shown)))]


# For each task the task of EmojiScenes whose rows it reads, and what measures them.
TASKS: dict[str, tuple[str, Callable[[_Evaluation, list[_Example]], list[_Observations]]]] = {
    "caption": ("caption", _Evaluation.caption),
    "question": ("question", _Evaluation.answers),
    "presence": ("concepts", _Evaluation.presence),
    "two_images": ("two_images", _Evaluation.answers),
    "text_only": ("text_only", _Evaluation.answers),
    "text_to_image": ("text_to_image", _Evaluation.text_to_image),
    "edit": ("edit", _Evaluation.edit),
    "referring": ("referring", _Evaluation.referring),
}
_REQUESTS = "|".join(request.removesuffix(" {}.") for request in REFERRING_REQUESTS)
_EXPRESSION = re.compile(rf"(?:{_REQUESTS}) (.+)\.")


class _Judge:
    """What SeTok sees in pictures."""

    def __init__(self, setok: SetokForPreTraining, image_processor: SetokImageProcessor):
        self.setok, self.image_processor = setok, image_processor
        self.concept_index = {name: index for index, name in enumerate(setok.config.concept_names)}

    def scores(self, pictures: list[Image.Image]) -> Tensor:
        """(B, V) float32 on the CPU: how much each concept of the bank is in each picture."""
        outputs = self._tokens(pictures)
        return self.setok.concept_logits(outputs.last_hidden_state, outputs.token_mask).float().cpu()

    def repaint(self, pictures: list[Image.Image]) -> list[Image.Image]:
        """The reconstructions, in the sizes of the pictures."""
        outputs = self._tokens(pictures)
        painted = self.setok.detokenize(outputs.last_hidden_state, outputs.token_mask)
        return self.image_processor.postprocess(painted, [(picture.height, picture.width) for picture in pictures])

    def clusters(self, pictures: list[Image.Image]) -> list[np.ndarray]:
        """Per picture the token (h, w) of each patch."""
        outputs = self._tokens(pictures)
        return list(outputs.cluster_ids.cpu().numpy().reshape(-1, *outputs.grid_size))

    def _tokens(self, pictures: list[Image.Image]) -> SetokModelOutput:
        pixel_values = self.image_processor(pictures, return_tensors="pt")["pixel_values"]
        return self.setok.setok(pixel_values.to(self.setok.device, self.setok.dtype))


def border_colour(picture: Image.Image) -> str:
    """The colour of `PALETTE` that is nearest to the median of the pixels along the edges."""
    pixels = np.asarray(picture.convert("RGB"), dtype=float)
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    distances = np.abs(np.array(list(PALETTE.values())) - np.median(edges, axis=0)).sum(axis=1)
    return list(PALETTE)[distances.argmin()]


def _background(key: str, picture: Image.Image, colour: str) -> tuple:
    return f"{key}_background", AnswerAccuracy, [border_colour(picture)], [(None, colour)]


def _pixels(picture: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
    """(1, 3, H, W) in [0, 1], of (width, height) `size`."""
    if size is not None and picture.size != size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None] / 255


def _with_majority(title: str, key: str) -> Row:
    return Row(title, f"{key}_accuracy", beside={"majority's answer": f"{key}_majority"})


def _kind_of_edit(kind: str) -> Row:
    return Row(f"– {kind}: L1", f"edit_{kind}_l1", ".4f", {"input unchanged": f"edit_unchanged_{kind}_l1"})


ROWS = [
    Row("scenes", "num_scenes", ".0f"),
    Row("caption: F1 of objects", "caption_f1"),
    Row("caption: all objects and no other", "caption_exact"),
    _with_majority("caption: colour and texture behind", "caption_background"),
    _with_majority("questions: accuracy", "question"),
    *(_with_majority(f"– {kind.replace('_', ' ')}", f"question_{kind}") for kind in QUESTIONS),
    Row("presence, yes or no: F1", "presence_f1", beside={"answered with yes": "presence_yes_ratio"}),
    _with_majority("two pictures: accuracy", "two_images"),
    _with_majority("scenes told in words: accuracy", "text_only"),
    Row(
        "text to image: asked objects found",
        "text_to_image_found",
        beside={
            "chance": "text_to_image_found_chance",
            "real scenes": "text_to_image_scene_found",
            "repainted by SeTok": "text_to_image_repainted_found",
        },
    ),
    Row(
        "text to image: background colour",
        "text_to_image_background_accuracy",
        beside={"real scenes": "text_to_image_scene_background_accuracy"},
    ),
    Row(
        "edit: L1 to the true result (less is better)",
        "edit_l1",
        ".4f",
        {
            "input unchanged": "edit_unchanged_l1",
            "painting alone": "edit_painted_l1",
            "true result repainted": "edit_result_l1",
        },
    ),
    *map(_kind_of_edit, EDITS),
    Row(
        "edit: asked object found",
        "edit_found",
        beside={
            "chance": "edit_found_chance",
            "input": "edit_unchanged_found",
            "painting alone": "edit_painted_found",
            "true result repainted": "edit_result_found",
        },
    ),
    Row("edit: background recoloured as asked", "edit_background_accuracy"),
    *(
        Row(
            f"referring: {title}",
            f"referring_{measure}",
            beside={
                "tokens as generated": f"referring_ungrounded_{measure}",
                "whole picture": f"referring_everything_{measure}",
                "best union of clusters": f"referring_clusters_{measure}",
            },
        )
        for measure, title in (("ciou", "cIoU"), ("giou", "gIoU"))
    ),
]


def format_table(results: dict[str, float]) -> str:
    """The table of what `evaluate_setokim` returned."""
    return format_rows(ROWS, results)


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder or Hub id of a Setokim with its processor"})
    setok: str = field(metadata={"help": "folder or Hub id of the SeTok that judges the painted pictures"})
    num_scenes: int = field(default=500, metadata={"help": "number of EmojiScenes for each task"})
    split: str = field(default="test", metadata={"help": "train, validation or test"})
    tasks: list[str] = field(default_factory=lambda: list(TASKS), metadata={"help": f"some of {', '.join(TASKS)}"})
    vocabulary: str = field(default="tiny", metadata={"help": "objects in the scenes: tiny (60) or full (144)"})
    seed: int = field(default=0, metadata={"help": "seed of the scenes and of the painted pictures"})
    batch_size: int = field(default=32, metadata={"help": "scenes per batch"})
    visual_guidance_scale: float | None = field(
        default=None, metadata={"help": "classifier-free guidance of visual tokens; default: the model's own"}
    )
    visual_temperature: float | None = field(default=None, metadata={"help": "factor of their noise"})
    num_diffusion_steps: int | None = field(default=None, metadata={"help": "default: the model's own"})
    device: str | None = field(default=None, metadata={"help": "default: the accelerator, or the CPU without one"})
    output: str | None = field(default=None, metadata={"help": "JSON file for the results"})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    device = choose_device(arguments.device)
    model = SetokimForConditionalGeneration.from_pretrained(arguments.model).to(device)
    processor = SetokimProcessor.from_pretrained(arguments.model)
    setok = SetokForPreTraining.from_pretrained(arguments.setok).to(device)
    start = time.perf_counter()
    results = evaluate_setokim(
        model,
        processor,
        setok,
        num_scenes=arguments.num_scenes,
        tasks=arguments.tasks,
        config=SceneConfig(image_size=processor.image_processor.size["height"], vocabulary=arguments.vocabulary),
        split=arguments.split,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        visual_guidance_scale=arguments.visual_guidance_scale,
        visual_temperature=arguments.visual_temperature,
        num_diffusion_steps=arguments.num_diffusion_steps,
    )
    results["seconds"] = time.perf_counter() - start
    print(f"{arguments.model} on EmojiScenes, split {arguments.split}, {results['seconds']:.0f} s\n")
    print(format_table(results))
    if arguments.output:
        write_results(arguments.output, arguments, results)


if __name__ == "__main__":
    main()
