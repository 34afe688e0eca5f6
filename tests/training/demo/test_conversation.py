"""What is asked about a picture and what is shown of the answers, with a model that knows all of them, or none."""

from itertools import count

import numpy as np
import pytest
from PIL import Image

from modeling_setok import SetokConfig
from training.data import SceneConfig, concept_names, make_scene
from training.data.emoji_scenes import language
from training.demo import conversation as demo_conversation
from training.demo.knowledge import Knowledge

SIZE = 48


class Oracle:
    """Gives the true answers of an exercise; `size` is that of its paintings."""

    def __init__(self, exercise: demo_conversation.Exercise, size: int = SIZE):
        self.exercise, self.size = exercise, (size, size)

    def caption(self, processor, images):
        assert images is self.exercise.picture
        return self.exercise.caption or "A picture."

    def ask(self, processor, images, questions):
        assert [(image is self.exercise.picture) for image in images] == [True] * 3
        known = dict(self.exercise.questions)
        return [known[question] or "yes" for question in questions]

    def segment(self, processor, images, expressions):
        assert images is self.exercise.picture and expressions == self.exercise.expression
        everything = np.ones((images.height, images.width), dtype=bool)
        return everything if self.exercise.mask is None else self.exercise.mask

    def edit_image(self, processor, images, instructions):
        assert images is self.exercise.source and instructions == self.exercise.instruction
        return self.exercise.result or Image.new("RGB", images.size)

    def generate_image(self, processor, prompts, generator):
        colours = generator.initial_seed() + np.arange(len(prompts))
        return [Image.new("RGB", self.size, (int(colour), 0, 0)) for colour in colours]


@pytest.fixture(scope="module")
def exercise():
    return demo_conversation.exercise_about_scene(SIZE)


@pytest.fixture(scope="module")
def scene(exercise):
    """The scene of the exercise, among those of the test split."""
    config = SceneConfig(image_size=SIZE, min_objects=3, max_objects=3)
    scenes = (make_scene("test", index, config) for index in count())
    return next(scene for scene in scenes if np.array_equal(scene.image, np.array(exercise.picture)))


def test_truths_are_those_of_the_scene(exercise, scene):
    (counting, number), (background, colour), (sides, side) = exercise.questions
    assert len(set(scene.names)) == 3
    assert all(language.noun(name) in exercise.caption for name in scene.names) and colour in exercise.caption
    counted = [name for name in scene.names if language.plural(name) in counting]
    assert number == ("3" if "objects" in counting else str(len(counted)))
    assert background == "What colour is the background?" and colour == scene.background[1]
    first, second = sorted(range(3), key=lambda index: sides.find(language.noun(scene.names[index])))[1:]
    x = language.centres(scene)[:, 0]
    assert language.noun(scene.names[first]) in sides and side == ("left" if x[first] < x[second] else "right")

    (outlined,) = [
        index for index, name in enumerate(scene.names) if f"the {language.noun(name)}" == exercise.expression
    ]
    assert np.array_equal(exercise.mask, scene.masks[outlined])
    assert exercise.source.size == exercise.result.size == (SIZE, SIZE)
    assert not np.array_equal(np.array(exercise.source), np.array(exercise.result))


def test_an_exercise_is_always_the_same(exercise):
    again = demo_conversation.exercise_about_scene(SIZE)
    assert (again.caption, again.questions, again.instruction) == (
        exercise.caption,
        exercise.questions,
        exercise.instruction,
    )
    assert all(
        np.array_equal(np.array(getattr(again, name)), np.array(getattr(exercise, name)))
        for name in ("picture", "mask", "source", "result")
    )


def test_true_answers_are_found_true(exercise):
    conversation = demo_conversation.work_through(exercise, Oracle(exercise), None)
    *told, outlined, edited = conversation.replies
    assert len(told) == 4 and all(reply.answer == reply.truth for reply in told)
    assert outlined.answer.endswith("IoU with the true one 1.00")
    assert "differs from the true one by 0% (before the edit: " in edited.answer and " 0%)" not in edited.answer
    assert [reply.asked for reply in conversation.replies] == [
        "Describe the picture.",
        *(question for question, _ in exercise.questions),
        f"Segment {exercise.expression}.",
        exercise.instruction,
    ]
    text = demo_conversation.describe(conversation)
    for reply in told:
        assert f"  user   {reply.asked}\n  model  {reply.answer}\n  truth  {reply.truth}\n" in text
    assert text.count("truth ") == 4


def test_a_wrong_outline_is_found_wrong(exercise, monkeypatch):
    oracle = Oracle(exercise)
    monkeypatch.setattr(oracle, "segment", lambda *_: ~exercise.mask)
    outlined = demo_conversation.work_through(exercise, oracle, None).replies[-2]
    share = f"{1 - exercise.mask.mean():.0%}"
    assert outlined.answer == f"a mask of {share} of the picture, IoU with the true one 0.00"


def test_the_sheet_shows_every_picture_whole():
    colours = [(10 * index, 50, 200) for index in range(4)]
    sizes = [(64, 64), (300, 100), (1, 700), (2000, 1000)]
    pictures = [(Image.new("RGB", size, colour), "words " * 20) for size, colour in zip(sizes, colours, strict=True)]
    conversation = demo_conversation.Conversation("four", [], pictures)
    sheet = demo_conversation.draw(
        [conversation, demo_conversation.paint("Draw: an owl.", Oracle(None), None, Knowledge())]
    )
    found = {colour: number for number, colour in sheet.getcolors(2**24)}
    for (width, height), colour in zip(sizes, colours, strict=True):
        shown = max(1, width * 512 / max(width, height)) * max(1, height * 512 / max(width, height))
        assert found[colour] == pytest.approx(shown, rel=0.01)
    for number in range(3):
        assert found[(number, 0, 0)] == (10 * SIZE) ** 2  # the largest whole multiple


def test_captions_tell_question_answer_and_truth():
    assert demo_conversation.Reply("What?", "this", "that").caption == "What? » this (truth: that)"
    assert demo_conversation.Reply("What?", "this").caption == "What? » this"


def test_a_sentence_is_painted_or_refused():
    knowledge = Knowledge.of(SetokConfig(text_feature_dim=8, concept_names=list(concept_names("tiny"))))
    painted = demo_conversation.paint("A photo of an owl.", Oracle(None), None, knowledge)
    (reply,) = painted.replies
    assert (reply.asked, reply.answer) == ("A photo of an owl.", "3 pictures")
    assert [caption for _, caption in painted.pictures] == [f"A photo of an owl. ({number})" for number in (1, 2, 3)]

    refused = demo_conversation.paint("a photo of a zebra", Oracle(None), None, knowledge)
    assert not refused.pictures and demo_conversation.draw([painted, refused])
    lines = demo_conversation.describe(refused).splitlines()
    assert lines[2] == '  model  The model does not know "zebra". It knows:'
    assert lines[3].startswith("         60 things: red apple, pear, ")


def test_an_empty_answer_is_told_in_a_sentence(exercise, monkeypatch):
    silent = Oracle(exercise)
    monkeypatch.setattr(silent, "caption", lambda *_: "")
    monkeypatch.setattr(silent, "ask", lambda processor, images, questions: [""] * len(questions))
    conversation = demo_conversation.work_through(exercise, silent, None)
    assert {reply.answer for reply in conversation.replies[:4]} == {"The model says nothing to this."}
