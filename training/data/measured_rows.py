"""Rows of one's own data to measure a model on, and what is known of whether training saw them."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from .held_out import StoredRows
from .sources import load_held_out_part, load_whole_part, named_parts


@dataclass(frozen=True)
class HeldOut:
    """Rows to measure a model on.

    Attributes:
        name: of the data, for people, without the folders above it.
        rows: map-style, of `schema.FEATURES`.
        told: which rows these are, and what is known of whether training saw them.
    """

    name: str
    rows: StoredRows
    told: str


def load_held_out(part: dict, split: str) -> HeldOut:
    """Of one part what it holds out; else the rows of this split where the data have splits and the part names none;
    else all.

    Raises:
        ValueError: EmojiScenes, and what the loaders refuse.
    """
    named_parts([part])  # refuses what is no part
    if part["dataset"] == "emoji_scenes":
        raise ValueError("EmojiScenes are no data of one's own: leave --data out, and they are measured.")
    name = Path(str(part["dataset"])).name if Path(str(part["dataset"])).is_dir() else str(part["dataset"])
    if "held_out" in part:
        rows, read = load_held_out_part(part)
        kept = f"which held_out: {part['held_out']} keeps from training"
    else:
        rows, read = load_whole_part(part, split)
        kept = "" if read else "and whether training saw them is not known: no split and no held_out names them"
        if str(read).startswith("train"):
            kept = "which is what training reads"
    of_split = f", split {read}" if read else ""
    return HeldOut(name, rows, ", ".join(filter(None, [f"{len(rows)} rows of {name}{of_split}", kept])))


def read_part(text: str) -> dict:
    """A part as the command line has it: a mapping in YAML, or the dataset alone.

    Raises:
        ValueError: it begins as a mapping and is none.
    """
    if not text.lstrip().startswith("{"):
        return {"dataset": text}
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{text} is not YAML: {error}") from error
