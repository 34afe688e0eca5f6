"""Brings what users write, in the words of public benchmarks, to the phrases that the models were trained on.

A model trained on scenes of emoji has read a dozen kinds of sentences, each always in the same words. To others it says
nothing: "Describe the picture." gets a caption, "Describe the image." an empty answer, about any picture, and broken
words where `min_new_tokens` forbids it to be empty. So the page and the demo ask in the model's words, and say so.

This file goes when a model is trained on several phrasings of each request.
"""

import re
from collections.abc import Callable

from modeling_setok.tasks_setokim import CAPTION_REQUEST
from training.data.emoji_scenes import language
from training.data.emoji_scenes.scenes import PALETTE
from training.data.emoji_scenes.sprites import atlas_entries
from training.data.emoji_scenes.tasks import CAPTION_REQUESTS

Rules = dict[str, Callable[..., str]]  # a pattern of the whole of a plain text (see `_plain`), and what to say for it

NOUNS = "|".join(entry["noun"] for entry in atlas_entries().values())  # of which one is "top hat"
PLACES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
HERE = r"(?: (?:in|on) the picture)?"
SHORTLY = r"(?: in detail| in one sentence| in a sentence| briefly| concisely)?"
DESCRIPTIONS: Rules = dict.fromkeys(
    (
        rf"(?:briefly )?(?:describe|caption|summarize|explain) (?:the picture|what (?:you see|is)){HERE}{SHORTLY}",
        r"(?:write|give|provide|generate)(?: me)? an? (?:\S+ )?(?:caption|description)(?: (?:for|of) the picture)?",
        r"what(?: is|'s)(?: shown| depicted| visible)? (?:in|on) the picture",
        rf"what (?:is this|do you see|can you see|can be seen|does the picture (?:show|contain)){HERE}",
        rf"what(?: is|'s) (?:happening|going on){HERE}",
        r"tell me (?:about|what is in) the picture",
        r"a (?:short )?picture (?:caption|description)",
        r"caption|description",
    ),
    lambda: CAPTION_REQUEST,
)
QUESTIONS: Rules = DESCRIPTIONS | {
    r"(?:describe|caption) the picture from left to right": lambda: "Describe the picture from left to right.",
    rf"how many (?:things|items)(?: are there| are)?{HERE}": lambda: "How many objects are there in the picture?",
    rf"(?:how many|count the|number of) (.+?)(?: are there| there are| are| can you see| do you see)?{HERE}": (
        lambda things: f"How many {things} are there in the picture?"
    ),
    rf"what(?: is the)? (?:background colour|colour (?:is|of) the background){HERE}": (
        lambda: "What colour is the background?"
    ),
    rf"(?:(?:is|are) there|(?:do|can) you see|does the picture (?:have|show|contain)) (?:an?|any) (.+?){HERE}": (
        lambda thing: f"Is there {language.a(_singular(thing))} in the picture?"
    ),
    r"is the (.+?) (?:(?:to|on) the )?left or (?:(?:to|on) the )?right of the (.+)": (
        lambda one, other: f"Is the {one} to the left or to the right of the {other}?"
    ),
    r"which (?:picture|of the (?:two )?pictures) (has .+?)(?:, the first or the second)?": (
        lambda what: f"Which picture {what}, the first or the second?"
    ),
}
INSTRUCTIONS: Rules = {
    r"(?:make|turn|change|colour|paint)(?: the colour of)? the background(?: colour)?(?: to| into)? (\w+)": (
        lambda colour: f"Make the background {colour}."
    ),
    r"(?:remove|delete|erase|take away|get rid of) (.+?)(?: from the picture)?": lambda thing: f"Remove {thing}.",
    r"(?:replace|swap|exchange) (.+) (?:with|for|by) (.+)": lambda old, new: f"Replace {old} with {new}.",
    r"(?:turn|change) (.+) (?:in)?to (.+)": lambda old, new: f"Replace {old} with {new}.",
    r"(?:add|put|place|insert|draw) (.+)": lambda thing: f"Add {thing}.",
}
EXPRESSIONS: Rules = {
    r"all (?:of )?(?:the )?(.+)": lambda things: f"all {things}",
    rf"(?:the )?(?!{NOUNS})(left|right|top|bottom)(?:most)? (.+)": lambda place, thing: f"the {thing} {PLACES[place]}",
    r"(?:the )?(.+) (?:on|at|to) (?:the )?(left|right|top|bottom)(?: side)?": (
        lambda thing, place: f"the {thing} {PLACES[place]}"
    ),
    r"(?:the |an? )?(.+)": lambda thing: f"the {thing}",
}


def question(text: str) -> str:
    """ "Describe this image." -> "Describe the picture."."""
    return text if text in CAPTION_REQUESTS else _rephrase(text, QUESTIONS)


def instruction(text: str) -> str:
    """ "Turn the background blue" -> "Make the background blue."."""
    return _rephrase(text, INSTRUCTIONS)


def expression(text: str) -> str:
    """ "Please segment the left owl in this image." -> "the owl on the left"."""
    ask = r"^(?:segment|outline|find|locate|highlight|show me(?: where to find)?|where (?:is|are)) "
    return _rephrase(re.sub(rf"{HERE}$", "", re.sub(ask, "", _plain(text))), EXPRESSIONS)


def drawing(text: str) -> str:
    """ "a photo of an owl on a red background" -> "Draw: an owl on a plain red background."."""
    plain = re.sub(rf"\bon an? ({'|'.join(PALETTE)}) background", r"on a plain \1 background", _plain(text))
    if re.match(r"(?:draw|show me|make a picture of): ", plain):  # as in training
        return f"{plain[0].upper()}{plain[1:]}."
    verb = r"(?:(?:draw|paint|show|make|create|generate|imagine)(?: me)?:? )?"
    return f"Draw: {re.sub(rf'^{verb}(?:(?:an?|the) picture (?:of|with|showing|that shows):? )?', '', plain)}."


def _rephrase(text: str, rules: Rules) -> str:
    """What the first rule that fits makes of a text; without one the text itself, with the model's words for some."""
    plain = _plain(text)
    for pattern, say in rules.items():
        if found := re.fullmatch(pattern, plain):
            return say(*found.groups())
    return _own_words(text)


def _plain(text: str) -> str:
    """The text in the model's words and small letters, without courtesies, and without the mark at its end."""
    plain = _own_words(text).lower().rstrip(" .:?!")
    plain = re.sub(r"^(?:please |(?:can|could|would) you (?:please )?)+(?!see)", "", plain)
    return re.sub(r"\b(?:this|that|the (?:given|provided|following|above)) picture\b", "the picture", plain)


def _own_words(text: str) -> str:
    for pattern, word in {
        r"\b(?:image|photo|photograph|pic|scene)(s?)\b": r"picture\1",
        r"\bcolor": "colour",
        r"\bgrey\b": "gray",
    }.items():
        text = re.sub(pattern, word, text, flags=re.IGNORECASE)
    return text


def _singular(thing: str) -> str:
    """ "bunches of grapes" -> "bunch of grapes"; what is no plural of a thing stays."""
    return next((entry["noun"] for entry in atlas_entries().values() if entry["plural"] == thing), thing)
