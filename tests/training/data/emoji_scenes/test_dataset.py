"""The three forms of EmojiScenes hold the same rows."""

import pickle

import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.row_testing import plain
from training.data import FEATURES, TASKS, EmojiScenes, SceneConfig


@pytest.fixture(scope="module")
def scenes() -> EmojiScenes:
    return EmojiScenes("test", 3 * len(TASKS) + 1, SceneConfig(image_size=48), tasks=tuple(TASKS), seed=5)


def test_three_forms_are_equal(scenes):
    rows = [plain(scenes[i]) for i in range(len(scenes))]
    assert rows == [plain(row) for row in scenes]
    materialised = scenes.to_dataset()
    assert materialised.features == FEATURES and len(materialised) == len(scenes)
    assert rows == [plain(row) for row in materialised]
    for shards in (1, 4):
        stream = scenes.to_iterable_dataset(num_shards=shards)
        assert stream.features == FEATURES
        assert rows == [plain(row) for row in stream]


def test_materialised_in_chunks(monkeypatch, scenes):
    monkeypatch.setattr("training.data.scene_rows._CHUNK", 10)
    assert [plain(row) for row in scenes.to_dataset()] == [plain(row) for row in scenes]


def test_tasks_take_turns(scenes):
    assert [row["task"] for row in scenes] == [list(TASKS)[i % len(TASKS)] for i in range(len(scenes))]
    double = EmojiScenes("train", 6, tasks=["caption", "caption", "edit"])
    assert [row["task"] for row in double] == ["caption", "caption", "edit"] * 2


def test_a_row_does_not_depend_on_the_others():
    mixed = EmojiScenes("train", 9, tasks=("caption", "question", "edit"))
    alone = EmojiScenes("train", 100, tasks=("question",))
    assert plain(mixed[4]) == plain(alone[4])
    assert plain(EmojiScenes("train", 5)[4]) == plain(EmojiScenes("train", 50)[4])


def test_a_row_does_not_depend_on_the_order_of_tasks(monkeypatch):
    def rows():
        return [plain(row) for row in EmojiScenes("train", 4, tasks=("caption", "edit", "outlines"))]

    before = rows()
    monkeypatch.setattr("training.data.emoji_scenes.dataset.TASKS", {"new": None} | dict(reversed(TASKS.items())))
    assert rows() == before


def test_in_a_data_loader_with_workers(scenes):
    loader = DataLoader(scenes, batch_size=5, num_workers=2, collate_fn=list)
    assert [plain(row) for batch in loader for row in batch] == [plain(row) for row in scenes]


def test_stream_is_shared_by_workers(scenes):
    loader = DataLoader(scenes.to_iterable_dataset(num_shards=2), batch_size=None, num_workers=2)
    key = repr
    assert sorted(map(key, map(plain, loader))) == sorted(map(key, map(plain, scenes)))


def test_pickles(scenes):
    assert plain(pickle.loads(pickle.dumps(scenes))[3]) == plain(scenes[3])


def test_indexing():
    scenes = EmojiScenes("train", 4)
    assert plain(scenes[-1]) == plain(scenes[3])
    for index in (4, -5):
        with pytest.raises(IndexError):
            scenes[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "train, validation, test"),
        ({"tasks": ("captions",)}, "text_to_image"),
        ({"tasks": "caption"}, "sequence"),
        ({"tasks": ()}, "tasks"),
        ({"num_scenes": 0}, "num_scenes >= 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EmojiScenes(**{"split": "train", "num_scenes": 3, **arguments})


def test_several_rows_about_a_scene():
    several = EmojiScenes("train", 8, SceneConfig(), tasks=("caption", "two_images", "edit"), rows_per_scene=6)
    assert len(several) == len(list(several)) == 48
    scenes = [several.scene(i) for i in range(0, 48, 6)]
    assert [scene.layout for scene in scenes] == [EmojiScenes("train", 8).scene(i).layout for i in range(8)]
    pictures = {scene.image.tobytes() for scene in scenes}
    for index, row in enumerate(several):
        scene, images = scenes[index // 6], [np.asarray(image) for image in row["images"]]
        assert row["task"] == ("caption", "two_images", "edit")[index % 3]
        assert any(np.array_equal(image, scene.image) for image in images)
        if row["task"] == "two_images":  # the second one, too, is a scene that other rows are about
            assert {image.tobytes() for image in images} <= pictures and not np.array_equal(*images)
    requests = {several[i]["messages"][0]["content"][-1]["text"] for i in (0, 3, 6, 9, 12, 15)}
    assert len(requests) > 2  # each row draws its own
    with pytest.raises(ValueError, match="rows_per_scene >= 1"):
        EmojiScenes("train", 8, rows_per_scene=0)
