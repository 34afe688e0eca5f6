"""What a cut-out is called, from its caption, and the split that its name belongs to."""

import hashlib
import re

# The caption names no object, or not first: by path without suffix, below stamps/.
NAMES = {
    "animals/fish/bluegroper": "groper",
    "animals/mammals/bears/toys/edward_bear": "teddy bear",
    "animals/mammals/bovines/sheep_lamb": "lamb",
    "food/spices/ginger": "ginger root",
    "food/vegetables/broccoli": "broccoli",
    "household/toilet": "toilet",
    "military/ammunition/old_naval_shell": "artillery shell",
    "military/vehicles/bradley": "armoured vehicle",
    "military/vehicles/f22_raptor": "jet fighter",
    "military/vehicles/infantry-stryker": "armoured vehicle",
    "military/vehicles/ww2_german_gun": "tank",
    "people/toys/grannysmith": "rag doll",
    "plants/trees/holly_leaves": "holly leaf",
    "plants/trees/rambutan": "rambutan",
    "space/apollo_lander": "lunar lander",
    "space/voyager2": "space probe",
    "vehicles/auto/beetle": "car",
    "vehicles/auto/sedan": "car",
}
# Words that say which, not what: the pictures of a noun share one name.
_QUALIFIERS = set(
    """adelaide adjustable american and big black blue bolted brown colorful common crash eared emperor
    european freshwater garden great green headed helmeted home large little magellanic male old pink plastic
    plumber’s poisonous purple red seville silver sitting sleeping small spiny star sumatran sweet tamworth uk
    very walnut white yellow""".split()
)
_NOT_FIRST = r"(?:(?:it['’]s|an?|the) )+"
_PARTS = r"(?:baby|bunch|pair|plant) of (?:an? )?"
_CUT = r"[.!?,;:(\"]| (?:used|with|making|covered|lets|resembles)\b"
_LAST = r"(?<=\w) (?:flower|plant|fruit)$"
_LONGEST = 3  # words; more are a sentence

# Nouns for nearly the same object, which share a split.
_KIN = {
    "bull": "cow", "can": "bin", "cello": "violin", "doe": "deer", "drake": "duck", "dromedary": "camel",
    "gull": "seagull", "hen": "chicken", "kit": "drum", "lamb": "sheep", "mailbox": "box", "mountaingoat": "goat",
    "ram": "sheep", "rooster": "chicken",
}  # fmt: skip


def object_name(stamp: str, caption: str) -> str | None:
    """The noun of a caption: "lion" of "A lion.", "crane" of "A great crane (Grus), from Asia.".

    Args:
        stamp: path below stamps/, without suffix; some have their name in `NAMES`.

    Returns:
        one to three words in lower case; None where the caption is not a noun phrase.
    """
    if stamp in NAMES:
        return NAMES[stamp]
    phrase = re.split(_CUT, caption.strip().lower(), maxsplit=1)[0]
    phrase = re.sub(f"^{_NOT_FIRST}", "", phrase)
    phrase = re.sub(f"^{_PARTS}", "", phrase)
    words = [word for word in phrase.split() if word not in _QUALIFIERS]
    name = re.sub(_LAST, "", " ".join(words))
    return name if re.fullmatch(rf"[a-z-]+( [a-z-]+){{0,{_LONGEST - 1}}}", name) else None


def name_split(name: str) -> str:
    """The split of all cut-outs of a name: about 60 % of names in "train", 15 % in "validation", 25 % in "test".

    It hangs on the last word of the name alone, so that "garbage truck" and "fire truck" are in one split, and nouns
    for nearly the same object ("ram", "sheep") share theirs.
    """
    word = name.split()[-1]
    digest = hashlib.sha256(_KIN.get(word, word).encode()).digest()
    part = int.from_bytes(digest[:8], "big") % 20
    return "train" if part < 12 else "validation" if part < 15 else "test"
