"""Training rows ask in many words, for the same; other rows in those of the tasks."""

import re
from dataclasses import replace

import numpy as np
import pytest

from training.data import EmojiScenes, SceneConfig
from training.data.emoji_scenes import dataset
from training.data.emoji_scenes.wordings import WORDINGS, reword

ASKING = (
    "caption", "question", "text_to_image", "edit", "referring", "two_images", "conversation", "presence", "outlines",
    "places", "two_captions", "comparisons",
)  # fmt: skip


def requests(row: dict) -> list[str]:
    return [m["content"][-1]["text"] for m in row["messages"] if m["role"] == "user"]


def without_requests(row: dict) -> dict:
    said = [m for m in row["messages"] if m["role"] == "assistant"]
    pictures = [np.asarray(picture) for picture in (*row["images"], *row["masks"])]
    return {**row, "messages": said, "images": None, "masks": None, "pixels": [p.tobytes() for p in pictures]}


@pytest.mark.parametrize("task", ASKING)
def test_training_rows_differ_in_words_alone(task, monkeypatch):
    scenes = EmojiScenes("train", 40, SceneConfig(image_size=24), tasks=(task,))
    reworded = list(scenes)
    monkeypatch.setattr(dataset, "reword_requests", lambda row, rng: None)
    plain = list(scenes)
    for one, other in zip(reworded, plain, strict=True):
        assert without_requests(one) == without_requests(other)
    changed = sum(requests(one) != requests(other) for one, other in zip(reworded, plain, strict=True))
    assert changed > 15
    assert all(reword(asked, Last()) != asked for row in plain for asked in requests(row))  # each has a form


class Last:
    """Takes the last of all choices."""

    def integers(self, number: int) -> int:
        return number - 1


@pytest.mark.parametrize("split", ["validation", "test"])
def test_other_rows_ask_in_the_words_of_the_tasks(split, monkeypatch):
    scenes = EmojiScenes(split, 9, SceneConfig(image_size=24), tasks=ASKING)
    monkeypatch.setattr(dataset, "reword_requests", lambda row, rng: pytest.fail("reworded"))
    list(scenes)


@pytest.mark.parametrize(
    "request_, words",
    [
        ("How many bunches of grapes are there in the picture?", {"bunches of grapes"}),
        ("Is the owl to the left or to the right of the red car?", {"owl", "red car"}),
        ("Replace the owl on the left with a bunch of grapes.", {"the owl on the left", "a bunch of grapes"}),
        ("Draw: from left to right, an owl and a bus on a plain red background.", {"an owl and a bus", "plain red"}),
        ("Show me where to find all owls.", {"all owls"}),
        ("Which picture has a background that is yellow, the first or the second?", {"yellow"}),
    ],
)
def test_what_is_asked_for_stays(request_, words):
    for seed in range(40):
        asked = reword(request_, np.random.default_rng(seed))
        assert all(word in asked for word in words) and not re.search(r"[{}]|\b[Aa] image", asked)


def test_a_request_of_another_form_stays():
    assert (
        reword("Imagine a picture. It shows, an owl.", np.random.default_rng(0))
        == "Imagine a picture. It shows, an owl."
    )


def test_groups_keep_their_parts():
    for group in WORDINGS:
        parts = [sorted(re.findall(r"\{(\w+)\}", template)) for template in group]
        assert all(part == parts[0] for part in parts), group
        assert len(set(group)) == len(group)


def test_rows_are_the_same_at_every_call():
    scenes = EmojiScenes("train", 9, SceneConfig(image_size=24), tasks=ASKING)
    assert [requests(scenes[i]) for i in range(9)] == [requests(scenes[i]) for i in range(9)]
    other = replace(scenes, seed=1)
    assert [requests(scenes[i]) for i in range(9)] != [requests(other[i]) for i in range(9)]
