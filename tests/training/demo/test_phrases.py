"""Requests in the words of users and benchmarks, brought to those of the training."""

import pytest

from modeling_setok import SetokConfig
from training.data import concept_names
from training.data.emoji_scenes import language
from training.demo import phrases
from training.demo.knowledge import Knowledge


@pytest.mark.parametrize(
    "request_",
    [
        "Describe the image.", "Describe this image", "describe the photo in detail", "What is in the image?",
        "What's in this picture?", "What do you see?", "Caption this image.", "What does the image show?",
        "Please describe the picture", "Could you describe what is in the image?", "Briefly describe this photo.",
        "Write a short description of the image.", "What is happening in the scene?", "A short image caption:",
        "Provide a one-sentence caption for the provided image.", "What can you see in this image?",
    ],
)  # fmt: skip
def test_descriptions(request_):
    assert phrases.question(request_) == "Describe the picture."


@pytest.mark.parametrize(
    ("asked", "understood"),
    [
        ("Describe this image from left to right.", "Describe the picture from left to right."),
        ("What color is the background?", "What colour is the background?"),
        ("What is the color of the background in this image?", "What colour is the background?"),
        ("How many owls are in the photo?", "How many owls are there in the picture?"),
        ("How many things are there?", "How many objects are there in the picture?"),
        ("Count the bunches of grapes.", "How many bunches of grapes are there in the picture?"),
        ("Are there any bunches of grapes in the image?", "Is there a bunch of grapes in the picture?"),
        ("Can you see an owl?", "Is there an owl in the picture?"),
        ("Does this image contain a dog face?", "Is there a dog face in the picture?"),
        ("Is the owl on the left or right of the gem?", "Is the owl to the left or to the right of the gem?"),
        ("Which image has more objects?", "Which picture has more objects, the first or the second?"),
        ("Is the background grey?", "Is the background gray?"),
        ("Is this Image nice?", "Is this picture nice?"),
        ("Quoi?", "Quoi?"),
    ],
)
def test_questions(asked, understood):
    assert phrases.question(asked) == understood


@pytest.mark.parametrize(
    ("asked", "understood"),
    [
        ("Turn the background blue", "Make the background blue."),
        ("change the background color to grey", "Make the background gray."),
        ("Please delete the owl.", "Remove the owl."),
        ("Remove the owl from the image", "Remove the owl."),
        ("swap the owl for a gem", "Replace the owl with a gem."),
        ("Turn the owl into a gem", "Replace the owl with a gem."),
        ("put an owl at the top left", "Add an owl at the top left."),
        ("Make it snowy", "Make it snowy"),
    ],
)
def test_instructions(asked, understood):
    assert phrases.instruction(asked) == understood


@pytest.mark.parametrize(
    ("asked", "understood"),
    [
        ("owl", "the owl"),
        ("left owl", "the owl on the left"),
        ("the topmost owl", "the owl at the top"),
        ("owl on right side", "the owl on the right"),
        ("Please segment the owl in this image.", "the owl"),
        ("Where is the owl?", "the owl"),
        ("all of the owls", "all owls"),
    ],
)
def test_expressions(asked, understood):
    assert phrases.expression(asked) == understood


@pytest.mark.parametrize(
    ("asked", "understood"),
    [
        ("a photo of an owl on a blue background", "Draw: an owl on a plain blue background."),
        ("two owls", "Draw: two owls."),
        ("Generate an image of a red car and a gem.", "Draw: a red car and a gem."),
        ("draw me an owl on a mottled grey background", "Draw: an owl on a mottled gray background."),
        ("Show me: an owl on a plain red background", "Show me: an owl on a plain red background."),
    ],
)
def test_drawings(asked, understood):
    assert phrases.drawing(asked) == understood


def test_what_the_model_was_trained_on_stays_as_it_is():
    forms = Knowledge.of(SetokConfig(text_feature_dim=8, concept_names=list(concept_names("full")))).forms
    for task, rephrase in (
        ("caption", phrases.question), ("question", phrases.question), ("two_images", phrases.question),
        ("text_to_image", phrases.drawing), ("edit", phrases.instruction), ("referring", phrases.expression),
    ):  # fmt: skip
        sentences = [form.replace("*", "") for form in forms[task]]
        assert sentences and [rephrase(sentence) for sentence in sentences] == sentences


def test_no_name_is_taken_for_a_request():
    for name in concept_names("full"):
        thing, things = language.noun(name), language.plural(name)
        for rephrase, sentences in (
            (phrases.expression, [f"the {thing}", f"the {thing} on the left", f"all {things}"]),
            (phrases.instruction, [f"Remove the {thing}.", f"Replace the {thing} with {language.a(thing)}."]),
            (phrases.instruction, [f"Add {language.a(thing)} at the top right."]),
            (phrases.drawing, [f"Draw: {language.a(thing)} and two {things} on a plain red background."]),
            (phrases.question, [f"Is there {language.a(thing)} in the picture?"]),
            (phrases.question, [f"How many {things} are there in the picture?"]),
            (phrases.question, [f"Is the {thing} to the left or to the right of the {thing}?"]),
        ):
            assert [rephrase(sentence) for sentence in sentences] == sentences
