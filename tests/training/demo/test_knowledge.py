"""What is told of the models' knowledge: as it stands in their configuration and in the data."""

import pytest

from modeling_setok import SetokConfig
from training.data import EmojiScenes, SceneConfig, concept_names
from training.data.emoji_scenes import language
from training.data.emoji_scenes.tasks import CAPTION_REQUESTS
from training.demo.knowledge import DATA_TASKS, NOT_WRITTEN, Knowledge


def knowledge_of(names) -> Knowledge:
    return Knowledge.of(SetokConfig(text_feature_dim=8, concept_names=None if names is None else list(names)))


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return knowledge_of(concept_names("tiny"))


def test_things_and_backgrounds_are_listed(knowledge):
    assert knowledge.things == tuple(map(language.noun, concept_names("tiny")))
    things, backgrounds = knowledge.listing().splitlines()
    assert things.startswith("60 things: red apple, pear, ") and "bunch of grapes" in things
    assert backgrounds.startswith("Backgrounds: plain, shaded, mottled; white, gray, black, ")
    assert len(knowledge_of(concept_names("full")).things) == 144


def test_every_form_of_the_training_is_listed_once(knowledge):
    assert set(CAPTION_REQUESTS) < set(knowledge.forms["caption"]) and len(knowledge.forms["caption"]) == 4
    counts = {task: len(forms) for task, forms in knowledge.forms.items()}
    assert counts == {"caption": 4, "question": 6, "two_images": 3, "text_to_image": 3, "edit": 6, "referring": 3}
    assert any(
        form.startswith("Draw: *") and form.endswith("* background.") for form in knowledge.forms["text_to_image"]
    )
    assert all(form.count("*") % 2 == 0 for forms in knowledge.forms.values() for form in forms)


def test_no_sentence_of_the_data_has_an_unknown_word(knowledge):
    tasks = [task for task in DATA_TASKS if task != "referring"]
    for row in EmojiScenes("validation", 300, SceneConfig(image_size=32), tasks=tasks):
        assert not knowledge.refusal(row["messages"][0]["content"][-1]["text"])
    for name in concept_names("tiny"):
        assert not knowledge.refusal(f"all {language.plural(name)}")


def test_unknown_words_are_named_with_what_is_known(knowledge):
    refusal = knowledge.refusal("Draw: a Zebra, an owl, a gnu and a zebra on a plain blue background.")
    assert refusal == f'The model does not know "zebra" and "gnu". It knows:\n{knowledge.listing()}'
    assert "zebra" in knowledge_of(concept_names("tiny")).refusal("the zebra")
    more = next(name for name in concept_names("full") if name not in concept_names("tiny"))
    assert not knowledge_of(concept_names("full")).refusal(f"the {language.noun(more)}")


def test_no_wording_of_the_training_has_an_unknown_word(knowledge):
    for row in EmojiScenes("train", 300, SceneConfig(image_size=32), tasks=[*DATA_TASKS]):
        assert not knowledge.refusal(row["messages"][0]["content"][-1]["text"])


def test_silence_tells_what_to_ask(knowledge):
    assert "Describe the picture. " in knowledge.silence("Show the picture") and "*" not in knowledge.silence("the")
    assert 'does not know "gnu"' in knowledge.silence("Is it a gnu?".replace("it", "there"))


@pytest.mark.parametrize("names", [None, ["zebra", "gnu"]])
def test_of_a_model_of_other_data_only_its_names_are_known(names):
    knowledge = knowledge_of(names)
    assert knowledge.listing() == ("2 things: zebra, gnu." if names else NOT_WRITTEN)
    assert not knowledge.forms and not knowledge.refusal("any words")
    assert knowledge.silence("Describe the image.") == "The model says nothing to this. Try other words."
