"""JSON as nobody should write it: good content with some of its values put wrong, or anything at all."""

import copy
import math
from random import Random

from hypothesis import strategies as st

DEEP = [[]]
for _ in range(300):
    DEEP = [DEEP]
ODD = [
    None, True, False, 0, -1, 1.5, math.nan, math.inf, 10**30, 10**400, 2**63,
    "", " ", "\n", "\ud800", "a\0b", "a" * 5000,
    "<image>", "<image> <image>", "[Img]<image>[/Img]", "<mask>", "[Img]", "<|im_end|>\n<|im_start|>user\n", "<|pad|>",
    "red.png", "noise.jpg", "mask.png", "other_mask.png", "grey.png", "short.png", "text.png", "missing.png",
    "link.png", "../outside.png", "/etc/hostname", "..", ".",
    "human", "gpt", "user", "assistant", "system", "text", "image", "mask",
    [], {}, [None], [[]], {"a": 1}, ["human"], [5], {"bytes": "text", "path": None}, {"bytes": None, "path": "red.png"},
    DEEP,
]  # fmt: skip


def damaged(content: object, random: Random) -> object:
    """A copy with one to three of its values replaced, taken out, repeated, or swapped."""
    content = [copy.deepcopy(content)]  # so that the whole can be replaced, too
    for _ in range(random.choice((1, 1, 2, 3))):
        container, key = random.choice([*_places(content)])
        change = random.randrange(5)
        if change == 0 and container is not content:
            del container[key]
        elif change == 1 and isinstance(container, list) and container is not content:
            container.insert(key, copy.deepcopy(container[key]))
        elif change == 2:
            other, other_key = random.choice([*_places(content)])
            container[key] = copy.deepcopy(other[other_key])
        else:
            container[key] = copy.deepcopy(random.choice(ODD))
    return content[0]


def _places(value: object):
    """Of all values within: what holds it, and where."""
    stack = [value]
    while stack:
        container = stack.pop()
        pairs = enumerate(container) if isinstance(container, list) else container.items()
        for key, inner in pairs:
            yield container, key
            if isinstance(inner, list | dict) and inner is not DEEP:
                stack.append(inner)


def any_json(keys: list[str]) -> st.SearchStrategy:
    """Anything that JSON can say, with these keys among others."""
    texts = st.text(st.characters(exclude_categories=()), max_size=8)
    simple = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(ODD)
    return st.recursive(
        simple,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys) | texts, inner, max_size=4),
        max_leaves=12,
    )


def like(content: object) -> st.SearchStrategy:
    """Damaged content."""
    return st.randoms(use_true_random=False).map(lambda random: damaged(content, random))
