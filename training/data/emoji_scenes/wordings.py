"""The words in which users ask, beside those of `tasks.py`: each request of a training row comes in one of several.

A model that reads each request in one wording alone says nothing to others. These are in the words of public
benchmarks: captions of COCO and LLaVA, questions of VQAv2, GQA and POPE, instructions of InstructPix2Pix. Validation
and test rows keep the wordings of `tasks.py`, so that figures can be compared.
"""

import re
from functools import cache

import numpy as np

from .tasks import CAPTION_REQUESTS, REFERRING_REQUESTS

# A request that has the form of one member of a group is asked in the words of any. The first group that fits counts.
WORDINGS: tuple[tuple[str, ...], ...] = (
    (
        *CAPTION_REQUESTS, "Describe this picture.", "Describe the picture in detail.", "What is in the picture?",
        "What's in this picture?", "What do you see in this picture?", "What is shown in the picture?",
        "Caption this picture.", "Provide a one-sentence caption for the provided picture.",
        "Give a short description of the picture.", "A short picture description:",
    ),
    (
        "Describe the picture from left to right.", "What is in the picture, from left to right?",
        "List the objects from left to right.",
    ),
    ("Describe the first picture.", "Describe the first of the pictures.", "What is in the first picture?"),
    ("Describe the second picture.", "Describe the second of the pictures.", "What is in the second picture?"),
    ("Where is {what}?", "Where is {what} in the picture?", "In which part of the picture is {what}?"),
    (
        "How many objects are there in the picture?", "How many objects are in the picture?",
        "How many objects are there?", "What is the number of objects in this picture?",
    ),
    (
        "How many {things} are there in the picture?", "How many {things} are in the picture?",
        "How many {things} are there?", "How many {things} can you see?", "Count the {things}.",
    ),
    (
        "What colour is the background?", "What is the colour of the background?", "Which colour is the background?",
        "What is the background colour?",
    ),
    (
        "Is the {thing} to the left or to the right of the {other}?", "Is the {thing} left or right of the {other}?",
        "On which side of the {other} is the {thing}, left or right?",
    ),
    (
        "Is the {thing} above or below the {other}?", "Is the {thing} above the {other} or below it?",
        "Does the {thing} lie above or below the {other}?",
    ),
    (
        "Which is bigger, the {thing} or the {other}?", "Which is larger, the {thing} or the {other}?",
        "Which of the two is bigger, the {thing} or the {other}?", "What is bigger: the {thing} or the {other}?",
    ),
    (
        "Is there {thing} in the picture?", "Is there {thing} in this picture?", "Do you see {thing} in the picture?",
        "Does the picture contain {thing}?", "Is there {thing}?",
    ),
    ("Is the background {name}?", "Is the background of the picture {name}?"),
    (
        "Which picture has more objects, the first or the second?", "Which picture has more objects?",
        "Which of the two pictures has more objects?",
    ),
    (
        "Which picture has {what}, the first or the second?", "Which picture has {what}?",
        "Which of the two pictures has {what}?",
    ),
    (
        *(request.format("{what}") for request in REFERRING_REQUESTS), "Find {what}.",
        "Please segment {what} in this picture.", "Can you segment {what} in the picture?",
    ),
    (
        "Draw: {what}.", "Show me: {what}.", "Make a picture of: {what}.", "Draw {what}.", "A picture of {what}.",
        "Generate a picture of {what}.", "Create a picture of {what}.",
    ),
    (
        "Make the background {name}.", "Change the background to {name}.", "Turn the background {name}.",
        "Change the background colour to {name}.",
    ),
    ("Remove {what}.", "Delete {what}.", "Erase {what}.", "Take away {what}.", "Get rid of {what}."),
    ("Replace {what} with {new}.", "Swap {what} for {new}.", "Turn {what} into {new}.", "Change {what} to {new}."),
    ("Add {what}.", "Put {what}.", "Place {what}.", "Insert {what}."),
)  # fmt: skip
# Each is drawn for itself, where it stands in a request.
SYNONYMS = {"picture": ("picture", "image", "photo"), "colour": ("colour", "color")}


def reword(request: str, rng: np.random.Generator) -> str:
    """The same request in other words, or in the same; unchanged where no group has its form."""
    found = _form(request)
    if found is None:
        return request
    group, parts = found
    template = group[rng.integers(len(group))]
    for word, others in SYNONYMS.items():
        template = template.replace(word, others[rng.integers(len(others))])
    template = re.sub(r"\b([Aa]) image", r"\1n image", template)
    return template.format(**parts)


def reword_requests(row: dict, rng: np.random.Generator) -> None:
    """Rewords, in place, what the user says in a row."""
    for message in row["messages"]:
        for part in message["content"]:
            if message["role"] == "user" and part["type"] == "text":
                part["text"] = reword(part["text"], rng)


def _form(request: str) -> tuple[tuple[str, ...], dict[str, str]] | None:
    for group, patterns in _patterns():
        for pattern in patterns:
            if found := pattern.fullmatch(request):
                return group, found.groupdict()
    return None


@cache
def _patterns() -> list[tuple[tuple[str, ...], list[re.Pattern]]]:
    def pattern(template: str) -> re.Pattern:
        return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(template)))

    return [(group, list(map(pattern, group))) for group in WORDINGS]
