"""Conversations about pictures in LLaVA's JSON, in which LLaVA, ALLaVA and ShareGPT4V are released."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..entries.entry import Entry
from ..entries.files import find_picture, read_json
from ..entries.values import quoted
from .picture_folders import as_folders

_ENDINGS = (".jpg", ".gif", ".png", ".jpeg")


def read_llava(file: str | Path, images: str | Path | list[str | Path] = ()) -> Iterator[Entry]:
    """Reads a list of `{"image": "a.jpg", "conversations": [{"from": "human" | "gpt", "value": "..."}, ...]}`, one row
    of task "conversation" for each: turns about one picture or, without `image`, about none. Released so are

    - LLaVA's pairs of stage I: `chat.json` of LLaVA-CC3M-Pretrain-595K and `blip_laion_cc_sbu_558k.json` of
      LLaVA-Pretrain, each with an `images.zip`;
    - `llava_v1_5_mix665k.json` of LLaVA-Instruct-150K, whose pictures are those of other data sets in
      `coco/train2017`, `gqa/images`, `ocr_vqa/images`, `textvqa/train_images`, `vg/VG_100K` and `vg/VG_100K_2`;
    - of ALLaVA-4V `ALLaVA-Caption-LAION-4V.json`, `ALLaVA-Instruct-LAION-4V.json` (`allava_laion/images`),
      `ALLaVA-Caption-VFLAN-4V.json`, `ALLaVA-Instruct-VFLAN-4V.json` (`allava_vflan/images`) and, of text alone,
      `Evol-Instruct-GPT4-Turbo-143K.json`. Of LAION its first release has addresses and no pictures: bad rows here;
    - of ShareGPT4V `share-captioner_coco_lcs_sam_1246k_1107.json`, `sharegpt4v_instruct_gpt4-vision_cap100k.json` and
      `sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json`, whose pictures also lie in `sam/images`,
      `llava/llava_pretrain/images`, `wikiart/images`, `share_textvqa/images`, `web-celebrity/images` and
      `web-landmark/images`.

    All are on the Hub: LLaVA's three under liuhaotian (of stage I under the licence of CC-3M and other, mix665k under
    CC BY 4.0), FreedomIntelligence/ALLaVA-4V (Apache 2.0), Lin-Chen/ShareGPT4V (CC BY-NC 4.0). The pictures are under
    the terms of their sources, what GPT-4 wrote is under OpenAI's.

    Args:
        file: the JSON file.
        images: the folder, or folders, in which a picture is looked for under the path that its row gives. A folder
            such as `coco` in one of them may be a link to one that is listed, too. A picture that is not there is
            taken with another ending, if it has one: OCR-VQA's are named `.jpg` in all rows, but some are GIF and PNG.

    Raises:
        ValueError: the file is not a JSON list, a folder does not exist.
    """
    file = Path(file)
    folders = as_folders(images)
    for i, entry in enumerate(read_json(file, list)):
        yield Entry(f"{file.name}, entry {i}", partial(_row, entry, folders))


def _row(entry: object, folders: list[Path]) -> dict:
    if not isinstance(entry, dict) or "conversations" not in entry:
        raise ValueError(f"an entry must be an object with conversations, not {quoted(entry)}")
    names = entry.get("image")
    names = [] if names is None else names if isinstance(names, list) else [names]
    return {"images": [_find(name, folders) for name in names], "conversations": entry["conversations"]}


def _find(name: object, folders: list[Path]) -> str:
    if not folders:
        raise ValueError(f"there is a picture, {quoted(name)}, but no folder was given to look for it")
    if isinstance(name, str):
        stem, ending = os.path.splitext(name)
        names = (name, *(stem + other for other in _ENDINGS if other != ending))
        name = next((other for other in names if any(os.path.isfile(folder / other) for folder in folders)), name)
    return find_picture(name, *folders)
