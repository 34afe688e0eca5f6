"""Names of objects in the plural."""

from training.data.emoji_scenes.object_names import plural


def test_plurals():
    cases = {"pear": "pears", "cherry": "cherries", "fox": "foxes", "potato": "potatoes", "peach": "peaches"}
    assert {name: plural(name) for name in cases} == cases
