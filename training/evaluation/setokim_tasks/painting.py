"""What a Setokim paints: pictures that are described, and pictures that are changed."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image, ImageChops
from torch import Tensor

from training.data.emoji_scenes.scenes import PALETTE
from training.data.emoji_scenes.tasks import EDITS
from training.evaluation.metrics import AnswerAccuracy, AskedFound, InPlace, MeanAbsoluteError, ranked_concepts
from training.evaluation.report import Row
from training.evaluation.setokim_tasks.judge import Judge
from training.evaluation.setokim_tasks.task import Context, Example, Observations, Task

COMPARED_SIDE = 64  # of pictures whose pixels are compared, so that models of all sizes are measured alike


def text_to_image(context: Context, examples: list[Example]) -> list[Observations]:
    """`text_to_image_found`, the part of the objects asked for that SeTok finds in the painted picture, and
    `_found_chance` (see `AskedFound`); `text_to_image_background_accuracy`. The same with `text_to_image_scene_` in the
    scene itself, and with `text_to_image_repainted_` in SeTok's reconstruction of the scene."""
    requests = [example.request for example in examples]
    truths = [example.row["images"][0] for example in examples]
    candidates = {
        "text_to_image": context.model.generate_image(context.processor, requests, **context.sampling(examples))
    }
    if context.first_draw:
        candidates |= {"text_to_image_scene": truths, "text_to_image_repainted": context.judge.repaint(truths)}
    observations = [[] for _ in examples]
    for key, pictures in candidates.items():
        scores = context.judge.look(pictures).scores
        for i, example in enumerate(examples):
            observations[i] += [
                _found(key, context.judge, scores[i], example.scene.names, example.scene.names),
                _background(key, pictures[i], example.scene.background[1]),
            ]
    return observations


def edit(context: Context, examples: list[Example]) -> list[Observations]:
    """`edit_l1`, the distance of the edited picture from the true result (pixels in [0, 1], at a side of
    `COMPARED_SIDE`). The same with `edit_painted_` of the painting alone (`keep_unchanged=False`), with
    `edit_unchanged_` of the input, with `edit_repainted_` of SeTok's reconstruction of the input, and with
    `edit_result_` of its reconstruction of the true result. `edit_found`, of the objects to add or to put in another's
    place, and `_found_chance`; `edit_placed`, whether those that the input lacks are found, and near the place where
    the true result differs from the input (see `InPlace`); `edit_background_accuracy` of the backgrounds to recolour.
    By kind of edit `edit_add_l1`, `edit_unchanged_add_l1` …
    """
    model, processor = context.model, context.processor
    sources, truths = (list(side) for side in zip(*(example.row["images"] for example in examples), strict=True))
    visual_tokens, features = context.visual_tokens(examples, sources, [example.request for example in examples])
    edited, painted = (
        model.edit_from_tokens(processor, sources, visual_tokens, keep_unchanged, image_features=features)
        for keep_unchanged in (True, False)
    )
    candidates = {"edit": edited, "edit_painted": painted}
    if context.first_draw:
        repaint = context.judge.repaint
        candidates |= {"edit_unchanged": sources, "edit_repainted": repaint(sources), "edit_result": repaint(truths)}
    observations = [[] for _ in examples]
    for key, pictures in candidates.items():
        scores, places = context.judge.look(pictures)
        ranking = ranked_concepts(scores)
        for i, example in enumerate(examples):
            kind = example.row["question_type"]
            error = (MeanAbsoluteError, _pixels(pictures[i]), _pixels(truths[i]))
            observations[i] += [(key, *error), (f"{key}_{kind}", *error)]
            if kind == "recolour":
                colour = example.request.rstrip(".").split()[-1]
                observations[i].append(_background(key, pictures[i], colour))
            elif kind != "remove":
                *replaced, asked = context.mentions(example.request)
                shown = Counter(example.scene.names) - Counter(replaced) + Counter([asked])
                index = context.judge.concept_index[asked]
                is_found = index in ranking[i][: len(shown)]
                place = tuple(places[i, index].tolist()) if is_found else None
                observations[i] += [
                    _found(key, context.judge, scores[i], [asked], shown),
                    _found(f"{key}_{kind}", context.judge, scores[i], [asked], shown),
                ]
                if shown[asked] == 1:  # else the one that was there is found as well
                    observations[i].append((key, InPlace, [place], [_place_of_change(sources[i], truths[i])]))
    return observations


def border_colour(picture: Image.Image) -> str:
    """The colour of `PALETTE` that is nearest to the median of the pixels along the edges."""
    pixels = np.asarray(picture.convert("RGB"), dtype=float)
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    distances = np.abs(np.array(list(PALETTE.values())) - np.median(edges, axis=0)).sum(axis=1)
    return list(PALETTE)[distances.argmin()]


def _found(key: str, judge: Judge, scores: Tensor, asked: Iterable[str], shown: Iterable[str]) -> tuple:
    """Observes whether SeTok, by its scores (V,) of a picture, finds the objects asked for among all that it shows."""
    return key, AskedFound, scores[None], [({judge.concept_index[name] for name in asked}, len(set(shown)))]


def _background(key: str, picture: Image.Image, colour: str) -> tuple:
    """Observes whether a picture has a background of this colour."""
    return f"{key}_background", AnswerAccuracy, [border_colour(picture)], [(None, colour)]


def _place_of_change(before: Image.Image, after: Image.Image) -> tuple[float, float]:
    """(x, y) from 0 to 1: the middle of the box around all pixels that differ."""
    left, top, right, bottom = ImageChops.difference(after.convert("RGB"), before.convert("RGB")).getbbox()
    return (left + right) / 2 / after.width, (top + bottom) / 2 / after.height


def _pixels(picture: Image.Image) -> Tensor:
    """(1, 3, `COMPARED_SIDE`, `COMPARED_SIDE`) in [0, 1]."""
    picture = picture.resize((COMPARED_SIDE, COMPARED_SIDE), Image.Resampling.BICUBIC)  # no change at this size
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None] / 255


TEXT_TO_IMAGE = Task(
    name="text_to_image",
    scene_task="text_to_image",
    observe=text_to_image,
    rows=[
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
    ],
    sampled=True,
)
EDIT = Task(
    name="edit",
    scene_task="edit",
    observe=edit,
    rows=[
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
        *(
            Row(
                f"– {kind}: L1",
                f"edit_{kind}_l1",
                ".4f",
                {
                    "input unchanged": f"edit_unchanged_{kind}_l1",
                    "painting alone": f"edit_painted_{kind}_l1",
                    "input repainted": f"edit_repainted_{kind}_l1",
                },
            )
            for kind in EDITS
        ),
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
        Row(
            "edit: asked object found, and in its place",
            "edit_placed",
            beside={"painting alone": "edit_painted_placed", "true result repainted": "edit_result_placed"},
        ),
        Row("edit: background recoloured as asked", "edit_background_accuracy"),
    ],
    sampled=True,
)
