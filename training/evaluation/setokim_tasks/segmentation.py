"""What a Setokim outlines: the object that an expression refers to."""

import re

import numpy as np

from modeling_setok.tasks_setokim import SEGMENT_REQUEST
from training.data.emoji_scenes.tasks import REFERRING_REQUESTS
from training.evaluation.metrics import ReferringIoU, best_union, upsample_labels
from training.evaluation.report import Row
from training.evaluation.setokim_tasks.task import Context, Example, Observations, Task

_REQUESTS = "|".join(request.removesuffix(" {}.") for request in REFERRING_REQUESTS)
_EXPRESSION = re.compile(rf"(?:{_REQUESTS}) (.+)\.")


def referring(context: Context, examples: list[Example]) -> list[Observations]:
    """`referring_ciou` and `_giou` (see `ReferringIoU`). The same with `referring_ungrounded_` for the mask from the
    tokens as they were generated (`ground=False`), with `referring_everything_` for a mask of the whole picture, and
    with `referring_clusters_` for the best union of SeTok's clusters."""
    pictures = [example.row["images"][0] for example in examples]
    requests = [SEGMENT_REQUEST.format(_EXPRESSION.fullmatch(example.request)[1]) for example in examples]
    visual_tokens, features = context.visual_tokens(examples, pictures, requests)
    grounded, ungrounded = (
        context.model.segment_from_tokens(context.processor, pictures, visual_tokens, ground, image_features=features)
        for ground in (True, False)
    )
    clusters = context.judge.clusters(pictures) if context.first_draw else None
    observations = []
    for i, example in enumerate(examples):
        truth = np.asarray(example.row["masks"][0]) > 0
        candidates = {"referring": grounded[i], "referring_ungrounded": ungrounded[i]}
        if clusters is not None:
            candidates |= {
                "referring_everything": np.ones_like(truth),
                "referring_clusters": best_union(upsample_labels(clusters[i], truth.shape), truth),
            }
        observations.append([(key, ReferringIoU, [given], [truth]) for key, given in candidates.items()])
    return observations


REFERRING = Task(
    name="referring",
    scene_task="referring",
    observe=referring,
    rows=[
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
    ],
    sampled=True,
)
