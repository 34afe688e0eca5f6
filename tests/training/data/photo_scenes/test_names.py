"""From captions to nouns, and from nouns to splits."""

import pytest

from training.data.photo_scenes.names import NAMES, name_split, object_name


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("A lion.", "lion"),
        ("An hippopotamus.", "hippopotamus"),
        ("A peacock (a male peafowl).", "peacock"),
        ("A spiny lobster, from the Hawaiian islands.", "lobster"),
        ("A dumper. It carries its load in the front.", "dumper"),
        ("A bunch of grapes.", "grapes"),
        ("The baby of a gnu.", "gnu"),
        ("A plant of common lavender.", "lavender"),
        ("A hibiscus flower.", "hibiscus"),
        ("A flower covered in dew drops.", "flower"),
        ("A red and white anemone flower.", "anemone"),
        ("A plumber’s wrench.", "wrench"),
        ("It's a cep, or they are two ceps?", "cep"),
        ("A very poisonous lionfish!", "lionfish"),
        ("A fire truck.", "fire truck"),
        ("We remember those who have died.", None),
        ("", None),
    ],
)
def test_the_noun_of_a_caption(caption, name):
    assert object_name("anywhere/picture", caption) == name


def test_names_of_captions_without_a_noun_are_in_a_table():
    assert object_name("household/toilet", "Remember to flush the toilet!") == NAMES["household/toilet"] == "toilet"


def test_nouns_of_one_kind_share_a_split():
    assert name_split("garbage truck") == name_split("fire truck") == name_split("truck")
    assert name_split("ram") == name_split("lamb") == name_split("sheep")


def test_splits_have_their_shares():
    splits = [name_split(f"word{i}") for i in range(2000)]
    shares = [splits.count(split) / len(splits) for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.60, 0.15, 0.25], abs=0.03)


def test_splits_stay_what_they_are():
    """A name that changed its split would make objects of published tests known."""
    names = {
        "train": ("frog", "horse", "zebra"),
        "validation": ("owl", "tiger", "dog"),
        "test": ("lion", "rose", "otter"),
    }
    assert {split: tuple(map(name_split, group)) for split, group in names.items()} == {s: (s,) * 3 for s in names}
