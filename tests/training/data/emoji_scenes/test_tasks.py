"""Every task's words and pictures agree with the scene, checked from its masks and names alone."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from training.data import TASKS, EmojiScenes, SceneConfig, render
from training.data.emoji_scenes import dataset
from training.data.emoji_scenes.language import NUMBERS, a, caption, listing, referring_expressions, region, sentence
from training.data.emoji_scenes.out_of_scope import CANNOT_ANSWER, out_of_scope_requests
from training.data.emoji_scenes.scenes import PALETTE
from training.data.emoji_scenes.sprites import STYLES, atlas_entries, sprite
from training.data.emoji_scenes.tasks import Draw

NAME_OF = {entry["noun"]: name for name, entry in atlas_entries().items()}
NAME_OF |= {entry["plural"]: name for name, entry in atlas_entries().items()}
CONFIG = SceneConfig(max_objects=5)


@pytest.fixture(autouse=True)
def own_words(monkeypatch):
    """In training, requests come in other words as well: see test_wordings.py."""
    monkeypatch.setattr(dataset, "reword_requests", lambda row, rng: None)


def rows_and_scenes(task: str, number: int, split: str = "train"):
    scenes = EmojiScenes(split, number, CONFIG, tasks=(task,))
    return [(scenes[i], scenes.scene(i)) for i in range(number)]


def words(row: dict, turn: int) -> str:
    return "".join(part["text"] or "" for part in row["messages"][turn]["content"])


def types(row: dict, turn: int) -> list[str]:
    return [part["type"] for part in row["messages"][turn]["content"]]


def middles(scene) -> np.ndarray:
    """(n, 2) x, y of the middle of each mask's extent, as a fraction of the side."""
    ends = [[(axis.min() + axis.max() + 1) / 2 for axis in np.nonzero(mask)[::-1]] for mask in scene.masks]
    return np.array(ends) / scene.image.shape[0]


def strip_article(phrase: str) -> str:
    return re.sub(r"^(the|an|a) ", "", phrase)


@pytest.mark.parametrize("task", TASKS)
def test_parts_match_columns(task):
    for row, _ in rows_and_scenes(task, 40):
        assert row["task"] == task
        parts = [part["type"] for turn in row["messages"] for part in turn["content"]]
        if row["messages"]:
            assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2)
            assert parts.count("image") == len(row["images"])
            assert parts.count("mask") == len(row["masks"])
        assert bool(row["concepts"]) == (len(row["images"]) == 1)
        assert all(mask.mode == "L" and mask.size == row["images"][0].size for mask in row["masks"])


def test_concepts():
    for row, scene in rows_and_scenes("concepts", 50):
        assert np.array_equal(np.asarray(row["images"][0]), scene.image)
        assert row["concepts"] == scene.names
        masks = [np.asarray(mask) for mask in row["masks"]]
        assert np.array_equal(np.stack(masks), scene.masks * np.uint8(255))


def read_caption(caption: str) -> tuple[Counter, str]:
    """Name counts and background colour as the caption tells them."""
    caption = caption.lower().rstrip(".")
    things, _, background = caption.removeprefix("from left to right, ").rpartition(" on a ")
    counts = Counter()
    for thing in re.split(r", | and ", things):
        number, _, noun = thing.partition(" ")
        counts[NAME_OF[noun]] += NUMBERS.index(number) if number in NUMBERS else 1
    return counts, background.split()[1]


@pytest.mark.parametrize(("task", "turn"), [("caption", 1), ("text_to_image", 0)])
def test_captions_tell_the_scene(task, turn):
    in_order = 0
    for row, scene in rows_and_scenes(task, 200):
        caption = words(row, turn).split(": ")[-1]
        assert read_caption(caption) == (Counter(scene.names), scene.background[1])
        if caption.lower().startswith("from left to right"):
            in_order += 1
            things = caption.lower().removeprefix("from left to right, ").rpartition(" on a ")[0]
            told = [NAME_OF[strip_article(thing)] for thing in re.split(r", | and ", things)]
            assert told == [scene.names[i] for i in np.argsort(middles(scene)[:, 0], kind="stable")]
        else:
            downwards = [scene.names[i] for i in np.argsort(middles(scene)[:, 1], kind="stable")]
            assert [*read_caption(caption)[0]] == [*dict.fromkeys(downwards)]
        assert np.array_equal(np.asarray(row["images"][0]), scene.image)
    assert 60 < in_order < 140
    assert types(row, 1) == (["text"] if task == "caption" else ["image"])


def test_placements_say_where_each_object_is():
    for row, scene in rows_and_scenes("placement", 60):
        things, _, background = words(row, 0).split(": ")[-1].rstrip(".").rpartition(" on a ")
        told = re.findall(
            r"(?:^|, | and )an? (.+?) (at the \w+(?: \w+)?|on the \w+|in the middle)(?=, | and |$)", things
        )
        centres = middles(scene)
        true = [(scene.names[i], region(centres[i])) for i in np.argsort(centres[:, 1], kind="stable")]
        assert [(NAME_OF[noun], place) for noun, place in told] == true and background.split()[1] == scene.background[1]
        assert types(row, 1) == ["image"] and np.array_equal(np.asarray(row["images"][0]), scene.image)


def related(question: str, scene) -> str:
    """The answer to a question about two objects, worked out from the masks alone."""
    forms = {
        r"Is the (.+) to the left or to the right of the (.+)\?": (middles(scene)[:, 0], ("left", "right")),
        r"Is the (.+) above or below the (.+)\?": (middles(scene)[:, 1], ("above", "below")),
        r"Which is bigger, the (.+) or the (.+)\?": (scene.masks.sum((1, 2)), None),
    }
    (match, values, answers), *others = [
        (match, *rest) for form, rest in forms.items() if (match := re.fullmatch(form, question))
    ]
    assert not others and all(scene.names.count(NAME_OF[noun]) == 1 for noun in match.groups())
    first, second = (values[scene.names.index(NAME_OF[noun])] for noun in match.groups())
    if answers is None:
        assert max(first, second) >= 1.5 * min(first, second) * (1 - 1e-9)
        return f"the {match[1] if first > second else match[2]}"
    assert abs(first - second) >= 0.1 - 1e-9
    return answers[0] if first < second else answers[1]


@pytest.mark.parametrize("task", ["relation", "relations"])
def test_relations_are_true_and_even(task):
    answers, others = {}, 0
    for row, scene in rows_and_scenes(task, 400):
        if not np.array_equal(np.asarray(row["images"][0]), scene.image):  # it has no two objects clearly apart
            others += 1
            continue
        asked = [words(row, turn) for turn in range(0, len(row["messages"]), 2)]
        assert len(set(asked)) == len(asked) <= (1 if task == "relation" else 4)
        for turn, question in enumerate(asked):
            assert words(row, 2 * turn + 1) == related(question, scene)
        if task == "relation":
            answers.setdefault(row["question_type"], Counter())[words(row, 1)] += 1
    assert others < 160
    if task == "relation":
        assert min(map(sum, map(Counter.values, answers.values()))) > 50
        assert 0.35 < answers["above_below"]["above"] / answers["above_below"].total() < 0.65


def test_what_cannot_be_answered_says_so():
    """In validation and test by requests that training lacks."""
    asked = {}
    for split in ("train", "test"):
        rows = [row for row, _ in rows_and_scenes("out_of_scope", 60, split)]
        assert {words(row, 1) for row in rows} == {CANNOT_ANSWER}
        assert 15 < sum(bool(row["images"]) for row in rows) < 45
        asked[split] = {words(row, 0) for row in rows}
    assert asked["train"] <= set(out_of_scope_requests(held_out=False)) and len(asked["train"]) > 30
    assert asked["test"] <= set(out_of_scope_requests(held_out=True))
    assert not asked["train"] & asked["test"]


def right_answer(question: str, scene) -> str:
    """The answer to a question about a scene, worked out from the words of the question."""
    if question == "What colour is the background?":
        return scene.background[1]
    if question == "How many objects are there in the picture?":
        return str(len(scene.masks))
    if match := re.fullmatch(r"How many (.+) are there in the picture\?", question):
        return str(Counter(scene.names)[NAME_OF[match[1]]])
    if match := re.fullmatch(r"Is there (.+) in the picture\?", question):
        return "yes" if NAME_OF[strip_article(match[1])] in scene.names else "no"
    if match := re.fullmatch(r"Is the background (.+)\?", question):
        return "yes" if match[1] == scene.background[1] else "no"
    match = re.fullmatch(r"Is the (.+) to the left or to the right of the (.+)\?", question)
    x = []
    for noun in match.groups():
        assert scene.names.count(NAME_OF[noun]) == 1, "no doubt which one is meant"
        x.append(middles(scene)[scene.names.index(NAME_OF[noun]), 0])
    assert abs(x[0] - x[1]) >= 0.1 - 1e-9
    return "left" if x[0] < x[1] else "right"


@pytest.mark.parametrize("task", ["question", "text_only"])
def test_questions_are_answered_truly_and_evenly(task):
    answers = {}
    for row, scene in rows_and_scenes(task, 900):
        asked = words(row, 0)
        if task == "text_only":
            assert row["images"] == [] and types(row, 0) == ["text"]
            told, asked = re.fullmatch(r"Imagine a picture\. It shows, (.+?)\. (.+)", asked).groups()
            assert read_caption(told) == (Counter(scene.names), scene.background[1])
        assert words(row, 1) == right_answer(asked, scene)
        answers.setdefault(row["question_type"], Counter())[words(row, 1)] += 1
    total = {kind: sum(counts.values()) for kind, counts in answers.items()}
    assert set(total) == {"counting", "background_colour", "left_right", "yes_no"}
    assert min(total.values()) > 100
    assert 0.42 < answers["yes_no"]["yes"] / total["yes_no"] < 0.58
    assert 0.42 < answers["left_right"]["left"] / total["left_right"] < 0.58
    assert set(answers["background_colour"]) == set(PALETTE)
    assert {"0", "1", "2", "3", "4", "5"} <= set(answers["counting"])


def test_conversations_ask_about_one_picture():
    lengths = Counter()
    for row, scene in rows_and_scenes("conversation", 200):
        asked = [words(row, turn) for turn in range(0, len(row["messages"]), 2)]
        assert len(set(asked)) == len(asked)
        for turn, question in enumerate(asked):
            assert types(row, 2 * turn) == (["text"] if turn else ["image", "text"])
            assert words(row, 2 * turn + 1) == right_answer(question, scene)
        lengths[len(asked)] += 1
    assert set(lengths) <= {2, 3, 4} and lengths[4] > 80


def resolve(expression: str, scene) -> list[int]:
    """The objects that an expression refers to."""
    if expression.startswith("all "):
        return [i for i, name in enumerate(scene.names) if name == NAME_OF[expression.removeprefix("all ")]]
    match = re.fullmatch(r"the (.+?)(?: (on the left|on the right|at the top|at the bottom))?", expression)
    members = [i for i, name in enumerate(scene.names) if name == NAME_OF[match[1]]]
    if match[2] is None:
        assert len(members) == 1
        return members
    assert len(members) > 1
    axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[match[2].split()[-1]]
    position = sign * middles(scene)[members, axis]
    order = np.argsort(position)
    assert position[order[1]] - position[order[0]] >= 0.1 - 1e-9, "clearly apart"
    return [members[order[0]]]


def refers_truly(row: dict, scene, turn: int) -> list[int]:
    """Checks that the mask after a request covers what it asks for, and gives the objects."""
    expression = re.fullmatch(r"(?:Segment|Outline|Show me where to find) (.+)\.", words(row, turn))[1]
    members = resolve(expression, scene)
    assert np.array_equal(np.asarray(row["masks"][turn // 2]) > 0, scene.masks[members].any(0))
    assert row["concepts"][turn // 2] == scene.names[members[0]] and types(row, turn + 1) == ["mask"]
    return members


def test_referring_masks():
    several = 0
    for row, scene in rows_and_scenes("referring", 400):
        refers_truly(row, scene, 0)
        several += scene.names.count(row["concepts"][0]) > 1
    assert several > 10


def test_outlines_of_one_picture():
    lengths = Counter()
    for row, scene in rows_and_scenes("outlines", 100):
        asked = []
        for turn in range(0, len(row["messages"]), 2):
            refers_truly(row, scene, turn)
            asked.append(words(row, turn).split(" the ")[-1])
        assert len(set(asked)) == len(asked) == len(row["masks"])
        lengths[len(asked)] += 1
    assert set(lengths) == {1, 2, 3, 4} and lengths[4] > 20


def test_presence_asks_for_what_is_there_and_what_is_not():
    first = Counter()
    for row, scene in rows_and_scenes("presence", 200):
        turns = range(0, len(row["messages"]), 2)
        answers = [words(row, turn + 1) for turn in turns]
        assert answers == [right_answer(words(row, turn), scene) for turn in turns]
        assert answers.count("yes") == answers.count("no") == min(2, len(set(scene.names)))
        assert len({words(row, turn) for turn in turns}) == len(answers)
        first[answers[0]] += 1
    assert min(first.values()) > 70


def test_edits_change_only_what_they_say():
    kinds = Counter()
    for row, scene in rows_and_scenes("edit", 500):
        source, target = (np.asarray(image) for image in row["images"])
        assert types(row, 0) == ["image", "text"] and types(row, 1) == ["image"]
        request, kind = words(row, 0).rstrip("."), row["question_type"]
        changed = (source != target).any(-1)
        kinds[kind] += 1
        if kind == "recolour":
            colour = request.removeprefix("Make the background ")
            assert colour != scene.background[1] and np.array_equal(source, scene.image)
            assert np.array_equal(target, render(scene.layout.recoloured(colour)).image)
            covered, touched = np.zeros_like(changed), np.zeros_like(changed)
            for placement in scene.layout.objects:
                alpha = sprite(placement.name, placement.size, placement.flip)[0][..., 3]
                window = np.s_[placement.y : placement.y + alpha.shape[0], placement.x : placement.x + alpha.shape[1]]
                covered[window] |= alpha == 255
                touched[window] |= alpha > 0
            assert changed[~touched].mean() > 0.9 and not changed[covered].any()
            continue
        if kind == "add":
            assert np.array_equal(target, scene.image)
            phrase, place = re.fullmatch(r"Add (.+?) ((?:at|on|in) the [a-z ]+)", request).groups()
            name = NAME_OF[strip_article(phrase)]
            members = [
                i
                for i, other in enumerate(scene.names)
                if other == name
                and region(middles(scene)[i]) == place
                and np.array_equal(source, render(scene.layout.without(i)).image)
            ]
            index = members[0]
        else:
            assert np.array_equal(source, scene.image)
            expression = re.fullmatch(r"(?:Remove|Replace) (.+?)(?: with .+)?", request)[1]
            (index,) = resolve(expression, scene)
            layout = scene.layout.without(index)
            if kind == "replace":
                name = NAME_OF[strip_article(request.rpartition(" with ")[2])]
                layout = scene.layout.replaced(index, name)
                assert name not in scene.names
                edited = render(layout)
                assert edited.visible.min() >= 0.7 and not edited.has_held_out_pair
            assert np.array_equal(target, render(layout).image)
        placement = scene.layout.objects[index]
        box = np.zeros_like(changed)  # the object's square, with room for another shape of the same size
        x, y, size = placement.x, placement.y, placement.size
        box[max(0, y - size // 2) : y + size + size // 2, max(0, x - size // 2) : x + size + size // 2] = True
        assert changed.any() and not changed[~box].any()
    assert set(kinds) == {"add", "remove", "replace", "recolour"} and min(kinds.values()) > 80


def test_edits_hold_held_out_pairs_only_outside_training():
    for split in ("train", "test"):
        held_out = 0
        for row, scene in rows_and_scenes("edit", 300, split):
            if row["question_type"] == "replace":
                name = NAME_OF[strip_article(words(row, 0).rstrip(".").rpartition(" with ")[2])]
                targets = [render(scene.layout.replaced(i, name)) for i in range(len(scene.names))]
                target = next(t for t in targets if np.array_equal(t.image, np.asarray(row["images"][1])))
                held_out += target.has_held_out_pair
        assert (held_out == 0) == (split == "train")


def fits(asked: str, pair) -> list[bool]:
    """Whether a question about two pictures is answered by each of the scenes."""
    if match := re.fullmatch(r"Which picture has a background that is (.+), the first or the second\?", asked):
        return [scene.background[1] == match[1] for scene in pair]
    if match := re.fullmatch(r"Which picture has (an? .+), the first or the second\?", asked):
        return [NAME_OF[strip_article(match[1])] in scene.names for scene in pair]
    assert asked == "Which picture has more objects, the first or the second?"
    first, second = (len(scene.masks) for scene in pair)
    return [first > second, second > first]


def test_comparisons():
    answers, turns = Counter(), Counter()
    pairs = EmojiScenes("test", 40, CONFIG, tasks=("comparisons",), rows_per_scene=2)
    by_picture = {pairs.scene(2 * i).image.tobytes(): pairs.scene(2 * i) for i in range(40)}
    for row in pairs:
        assert types(row, 0) == ["image", "image", "text"]
        pair = [by_picture[np.asarray(image).tobytes()] for image in row["images"]]
        for turn in range(0, len(row["messages"]), 2):
            answer = words(row, turn + 1)
            assert fits(words(row, turn), pair) == [answer == "first", answer == "second"]
            answers[answer] += 1
        turns[len(row["messages"]) // 2] += 1
    assert 0.38 < answers["first"] / answers.total() < 0.62
    assert max(turns) == 4 and turns[4] + turns[3] > 40


def test_two_images(monkeypatch):
    others = []

    def recorded(draw, style, original=Draw.scene):
        others.append(original(draw, style))
        return others[-1]

    monkeypatch.setattr(Draw, "scene", recorded)
    answers = {}
    scenes = EmojiScenes("train", 400, replace(CONFIG, styles=STYLES), tasks=("two_images",))
    for i, row in enumerate(scenes):
        pair = (scenes.scene(i), others[-1])
        assert pair[0].layout.style == pair[1].layout.style
        assert types(row, 0) == ["image", "image", "text"]
        assert all(np.array_equal(image, scene.image) for image, scene in zip(row["images"], pair, strict=True))
        assert not pair[1].has_held_out_pair
        asked, answer = words(row, 0), words(row, 1)
        answers.setdefault(row["question_type"], Counter())[answer] += 1
        assert fits(asked, pair) == [answer == "first", answer == "second"]
    assert set(answers) == {"more_objects", "which_object", "which_background"}
    for counts in answers.values():
        assert 0.38 < counts["first"] / sum(counts.values()) < 0.62


def test_two_captions():
    orders = Counter()
    pairs = EmojiScenes("test", 40, CONFIG, tasks=("two_captions",), rows_per_scene=2)
    by_picture = {pairs.scene(2 * i).image.tobytes(): pairs.scene(2 * i) for i in range(40)}
    for row in pairs:
        assert types(row, 0) == ["image", "image", "text"] and types(row, 2) == ["text"]
        pair = [by_picture[np.asarray(image).tobytes()] for image in row["images"]]
        order = [("first", "second").index(words(row, turn).split()[2]) for turn in (0, 2)]
        for turn, index in zip((1, 3), order, strict=True):
            assert words(row, turn) == sentence(caption(pair[index]))
        orders[tuple(order)] += 1
    assert set(orders) == {(0, 1), (1, 0)} and min(orders.values()) > 20


def test_places():
    asked = 0
    for row, scene in rows_and_scenes("places", 60):
        if not referring_expressions(scene):
            assert not np.array_equal(row["images"][0], scene.image)
            continue
        turns = len(row["messages"]) // 2
        assert 1 <= turns <= 4 and types(row, 0) == ["image", "text"]
        said = {}
        for turn in range(turns):
            (index,) = resolve(re.fullmatch(r"Where is (.+)\?", words(row, 2 * turn))[1], scene)
            assert words(row, 2 * turn + 1) == region(middles(scene)[index])
            said[words(row, 2 * turn)] = index
        assert len(said) == turns
        asked += turns
    assert asked > 120


def test_referring_expressions_name_one_object_each():
    crowded = EmojiScenes("test", 300, SceneConfig(min_objects=6, max_objects=6))
    for i in range(300):
        scene = crowded.scene(i)
        expressions = referring_expressions(scene)
        assert len({expression for _, expression in expressions}) == len(expressions)
        assert all(resolve(expression, scene) == [index] for index, expression in expressions)


def test_words():
    assert [a("owl"), a("unicorn face"), a("dog face"), a("eight ball")] == [
        "an owl",
        "a unicorn face",
        "a dog face",
        "an eight ball",
    ]
    assert [listing([]), listing("x"), listing("xy"), listing("xyz")] == ["nothing", "x", "x and y", "x, y and z"]
    places = [region(np.array(centre)) for centre in ((0.1, 0.1), (0.5, 0.9), (0.9, 0.5), (0.5, 0.5), (1.0, 1.0))]
    assert places == ["at the top left", "at the bottom", "on the right", "in the middle", "at the bottom right"]
