"""Visual Genome (Krishna et al. 2016): phrases about regions of pictures, and questions.

Files as released (https://homes.cs.washington.edu/~ranjay/visualgenome/api.html, CC BY 4.0): region_descriptions.json,
question_answers.json and image_data.json of version 1.2 or later, the pictures of images.zip and images2.zip in their
folders VG_100K and VG_100K_2.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ..entries.entry import Entry
from ..entries.files import find_picture, read_json
from ..entries.records import ById, Place, checked, good_records, number, one_line, settled, whole_number
from ..entries.values import identifier, listed, quoted, text
from .questions import Question, question_entries

REGION_REQUEST = "Please provide a short description for this region: {}."
"""Of LLaVA-1.5's mix, with [left, top, right, bottom] as fractions of the picture's width and height."""


def read_visual_genome_regions(
    regions: str | Path, image_data: str | Path, images: str | Path, per_picture: bool = False
) -> Iterator[Entry]:
    """A row per region: its box is asked about, as in LLaVA-1.5's mix, and its phrase is the answer.

    No row asks for a mask: a box is no outline.

    Args:
        regions: region_descriptions.json.
        image_data: image_data.json.
        images: the folder that holds VG_100K and VG_100K_2.
        per_picture: one row per picture, with its regions as turns (50 on average), in place of one per region.

    Raises:
        ValueError: for a file that is not in this format.
    """

    def question(picture: dict, path: str, region: object) -> Question:
        phrase, box = _phrase(region), _box(region, picture)
        return Question(path, REGION_REQUEST.format([round(place, 2) for place in box]), phrase)

    return question_entries(_places(regions, "regions", image_data, images, question), per_picture)


def read_visual_genome_captions(
    regions: str | Path, image_data: str | Path, images: str | Path, min_area: float = 0.5
) -> Iterator[Entry]:
    """Pairs of picture and text, as for pretraining: a row of task "caption" per region that covers much of its
    picture, with its phrase as the caption.

    Most regions are small, and their phrases ("a black shoe") no description of a picture; ALBEF and BLIP pair them
    with the whole picture all the same, as `min_area: 0` does.

    Args:
        regions, image_data, images: as for `read_visual_genome_regions`.
        min_area: regions that cover less than this fraction of the picture are left out.

    Raises:
        ValueError: for a file that is not in this format, and if all regions are too small.
    """

    def caption(picture: dict, path: str, region: object) -> dict | None:
        phrase, (left, top, right, bottom) = _phrase(region), _box(region, picture)
        large = (right - left) * (bottom - top) >= min_area
        return {"image": path, "caption": phrase} if large else None

    met = left_out = 0
    for where, make in _places(regions, "regions", image_data, images, caption):
        met += 1
        if row := settled(make):
            yield Entry(where, row)
        else:
            left_out += 1
    if met and met == left_out:
        raise ValueError(f"{regions}: no row is left, all regions cover less than {min_area} of their picture")


def read_visual_genome_questions(
    questions: str | Path, image_data: str | Path, images: str | Path, per_picture: bool = False
) -> Iterator[Entry]:
    """A row per question. Questions and answers are those of the file, such as "On the sidewalk." with its full stop:
    nothing asks for a single word, so that a model can tell these answers from those of VQAv2.

    Args:
        questions: question_answers.json.
        image_data, images: as for `read_visual_genome_regions`.
        per_picture: one row per picture, with its questions as turns (16 on average), in place of one per question.

    Raises:
        ValueError: for a file that is not in this format.
    """

    def question(picture: dict, path: str, record: object) -> Question:
        checked(record, question=text, answer=text)
        return Question(path, one_line(record["question"]), one_line(record["answer"]))

    return question_entries(_places(questions, "qas", image_data, images, question), per_picture)


def _places(
    file: str | Path, key: str, image_data: str | Path, images: str | Path, make: Callable[[dict, str, object], object]
) -> Iterator[Place]:
    """Each thing in the lists `key` of a file, one list per picture, made from the picture's entry in image_data.json,
    its path, and the thing."""
    bad, folder = [], Path(images)
    known = good_records(read_json(Path(image_data), list), str(image_data), bad, image_id=identifier, url=text)
    pictures = ById("picture", known.values(), "image_id")

    def made(image_id: object, thing: object) -> object:
        picture = pictures[image_id]
        return make(picture, find_picture("/".join(picture["url"].split("/")[-2:]), folder), thing)

    fields = {"id": identifier, key: listed}
    for record in good_records(read_json(Path(file), list), str(file), bad, **fields).values():
        for place, thing in enumerate(record[key]):
            yield f"{file}, picture {quoted(record['id'])}, {key!r}, entry {place}", partial(made, record["id"], thing)
    yield from bad


def _phrase(region: object) -> str:
    return one_line(checked(region, phrase=text)["phrase"])


def _box(region: dict, picture: dict) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what lies in the picture, as fractions of its size."""
    checked(region, x=number, y=number, width=number, height=number)
    box = []
    for corner, side in (("x", "width"), ("y", "height")):
        whole = whole_number(picture.get(side), f"the picture's {side}", 1)
        box.append([min(max(pixels / whole, 0.0), 1.0) for pixels in (region[corner], region[corner] + region[side])])
    (left, right), (top, bottom) = box
    if left >= right or top >= bottom:
        raise ValueError("the region covers nothing of the picture")
    return left, top, right, bottom
