"""All files that the recipes of the paper's size name, in the format of their release, with a few rows in each."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import yaml
import zstandard
from PIL import Image

from tests.reader_releases import (
    AOKVQA,
    GQA,
    OKVQA_ANNOTATIONS,
    VG_PICTURES,
    VG_REGIONS,
    VQA_QUESTIONS,
    VQAV2_ANNOTATIONS,
    write_released_pictures,
)
from tests.reader_testing import CAPTIONS, INSTANCES, REFERENCES, SIZE, llava
from tests.script_testing import ROOT

RECIPES = ("pretrain", "masks", "finetune", "lora")  # setokim_llama2_7b_*.yaml
# Of the Hub: what stands in for it here
LOCAL = {
    "pixparse/cc12m-wds": {"dataset": "webdataset", "data_files": "data/hub/cc12m-train-*.tar"},
    "timbrooks/instructpix2pix-clip-filtered": {"dataset": "parquet", "data_files": "data/hub/ip2p-*.parquet"},
    "osunlp/MagicBrush": {"dataset": "parquet", "data_files": "data/hub/magicbrush-*.parquet"},
    "HuggingFaceH4/llava-instruct-mix-vsft": {"dataset": "parquet", "data_files": "data/hub/vsft-*.parquet"},
}
LONG_TEXT = "An owl sees all that moves in the night. " * 40


def paper_recipe(name: str) -> dict:
    """A recipe's values, its data on this machine."""
    file = ROOT / "training" / "recipes" / f"setokim_llama2_7b_{name}.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    values["mixture"] = [part | LOCAL.get(part["dataset"], {}) for part in values["mixture"]]
    return values


def write_paper_data(root: Path) -> None:
    """Writes `root/data`. One row of LLaVA-595K has no picture, one of LAION a broken one, one text is long."""
    data = root / "data"
    _write_texts(data)
    _write_pictures(data)
    _write_tables(data / "hub", data / "LAION-aesthetics-12M")
    _write_json(data / "coco" / "annotations" / "captions_train2017.json", CAPTIONS)
    _write_json(data / "coco" / "annotations" / "instances_train2017.json", INSTANCES)
    _write_json(data / "vg" / "region_descriptions.json", VG_REGIONS)
    _write_json(data / "vg" / "image_data.json", VG_PICTURES)
    _write_json(data / "vqa_v2" / "v2_OpenEnded_mscoco_train2014_questions.json", VQA_QUESTIONS)
    _write_json(data / "vqa_v2" / "v2_mscoco_train2014_annotations.json", VQAV2_ANNOTATIONS)
    _write_json(data / "ok_vqa" / "OpenEnded_mscoco_train2014_questions.json", VQA_QUESTIONS)
    _write_json(data / "ok_vqa" / "mscoco_train2014_annotations.json", OKVQA_ANNOTATIONS)
    _write_json(data / "aokvqa" / "aokvqa_v1p0_train.json", AOKVQA)
    _write_json(data / "gqa" / "train_balanced_questions.json", GQA)
    for name, refs in (("refcoco", "refs_unc"), ("refcoco+", "refs_unc"), ("refcocog", "refs_umd")):
        _write_json(data / name / f"{refs}.json", REFERENCES)
        _write_json(data / name / "instances.json", INSTANCES)


def _write_texts(data: Path) -> None:
    documents = [["A short page.", LONG_TEXT], ["Another page.", "And the last one."]]
    for chunk, texts in enumerate(documents, 1):
        folder = data / "SlimPajama-627B" / "train" / f"chunk{chunk}"
        folder.mkdir(parents=True)
        lines = [json.dumps({"text": text, "meta": {"redpajama_set_name": "RedPajamaC4"}}) for text in texts]
        (folder / "example_train_0.jsonl.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
    alpaca = [
        {"instruction": "Name the odd one out.", "input": "Twitter, Telegram", "output": "Telegram"},
        {"instruction": "Say hello.", "input": "", "output": "Hello."},
    ]
    _write_json(data / "alpaca" / "alpaca_data.json", alpaca)


def _write_pictures(data: Path) -> None:
    for folder in ("coco/train2014", "coco/train2017", "gqa/images", "vg"):
        write_released_pictures(data / folder)
    for folder in ("coco/train2014", "coco/train2017"):
        for name in ("red", "grey"):
            _write_picture(data / folder / f"{name}.png", name)
    imagenet = data / "imagenet"
    for number in (18, 9):
        _write_picture(imagenet / f"ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_{number}.JPEG", "red")
    _write_picture(imagenet / "ILSVRC/Data/CLS-LOC/train/n02012849/n02012849_1.JPEG", "blue")
    (imagenet / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn02012849 crane\n")
    images = data / "open_images"
    for folder in "0123456789abcdef":
        (images / f"train_{folder}").mkdir(parents=True)
    for picture in ("train_0/000002b66c9c498e", "train_1/000002c707c9895e"):
        _write_picture(images / f"{picture}.jpg", "green")
    (images / "oidv7-class-descriptions.csv").write_text('LabelName,DisplayName\n/m/0c568,"Fungus, edible"\n')
    labels = [f"{picture},verification,/m/0c568,1\n" for picture in ("000002b66c9c498e", "000002c707c9895e")]
    (images / "oidv7-train-annotations-human-imagelabels.csv").write_text(
        "".join(["ImageID,Source,LabelName,Confidence\n", *labels])
    )
    _write_llava(
        data, "LLaVA-CC3M-Pretrain-595K/chat.json", "LLaVA-CC3M-Pretrain-595K/images", ["a.jpg", "b.jpg", None]
    )
    for part, picture in (("laion", "100277305.jpeg"), ("vflan", "images_191task_1k/a.png")):
        name = f"allava_{part}/images/{picture}"
        for kind in ("Caption", "Instruct"):
            _write_llava(data, f"ALLaVA-4V/allava_{part}/ALLaVA-{kind}-{part.upper()}-4V.json", "ALLaVA-4V", [name])
    file = "ShareGPT4V/sharegpt4v_instruct_gpt4-vision_cap100k.json"
    _write_llava(data, file, "", ["coco/train2017/000000299207.jpg", "sam/images/sa_545504.jpg"])
    file = "LLaVA-Instruct-150K/llava_v1_5_mix665k.json"
    _write_llava(data, file, "", ["vg/VG_100K/2.jpg", "ocr_vqa/images/140031996X.jpg"])


def _write_llava(data: Path, file: str, folder: str, names: list[str | None]) -> None:
    """A conversation about each picture; without a name about one that is not there."""
    for name in filter(None, names):
        _write_picture(data / folder / name, "yellow")
    talk = llava("<image>\nWhat is it?", "It is yellow.", "All of it?", "Yes.")
    rows = [{"id": str(i), "image": name or "lost.jpg", "conversations": talk} for i, name in enumerate(names)]
    _write_json(data / file, rows)


def _write_tables(hub: Path, laion: Path) -> None:
    _write_tar(hub / "cc12m-train-0000.tar", [(_jpeg("red"), "A red square."), (_jpeg("blue"), "a blue square")])
    _write_tar(laion / "00000.tar", [(_jpeg("red"), "Red."), (b"no picture", "Lost.")])
    _write_tar(laion / "00001.tar", [(_jpeg("blue"), "Blue.")])
    edit = {"original_prompt": "a square", "original_image": "red", "edit_prompt": "make it blue",
            "edited_prompt": "a blue square", "edited_image": "blue"}  # fmt: skip
    _write_parquet(hub / "ip2p-00000.parquet", [edit] * 2, ["original_image", "edited_image"])
    edit = {"img_id": "327807", "turn_index": 1, "source_img": "red", "mask_img": "white",
            "instruction": "make it blue",
            "target_img": "blue"}  # fmt: skip
    _write_parquet(hub / "magicbrush-00000.parquet", [edit], ["source_img", "mask_img", "target_img"])
    content = [
        {"index": None, "text": "What colour is it?", "type": "text"},
        {"index": 0, "text": None, "type": "image"},
    ]
    answer = [{"index": None, "text": "Yes.", "type": "text"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    table = datasets.Dataset.from_list([{"messages": messages, "images": [{"bytes": _jpeg("red"), "path": None}]}])
    table.cast_column("images", datasets.List(datasets.Image())).to_parquet(hub / "vsft-00000.parquet")


def _write_tar(path: Path, rows: list[tuple[bytes, str]]) -> None:
    """As img2dataset does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, (picture, caption) in enumerate(rows):
            for ending, content in (("jpg", picture), ("txt", caption.encode()), ("json", b"{}")):
                member = tarfile.TarInfo(f"{path.stem[-5:]}{number:04}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _write_parquet(path: Path, rows: list[dict], of_pictures: list[str]) -> None:
    pictures = [{key: {"bytes": _jpeg(row[key]), "path": None} for key in of_pictures} for row in rows]
    table = datasets.Dataset.from_list([row | own for row, own in zip(rows, pictures, strict=True)])
    for key in of_pictures:
        table = table.cast_column(key, datasets.Image())
    table.to_parquet(path)


def _write_picture(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, colour).save(path)


def _jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", SIZE, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
