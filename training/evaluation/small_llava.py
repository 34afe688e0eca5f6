"""A small LLaVA of transformers that answers about EmojiScenes: what token reductions are compared on.

Its vision tower is a frozen DINOv2, whose features are computed once; what is trained is the MLP and a small language
model that knows the language of these scenes, but has not seen a patch.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    Dinov2Model,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.modeling_outputs import BaseModelOutput

from modeling_setok.kept_columns import IGNORED
from processing import SetokImageProcessor, SetokimProcessor
from training.data import EmojiScenes, SceneConfig
from training.data.row_lengths import conversation_tokens
from training.loading import load_language_model
from training.packaged_models.digest import weights_digest
from training.whole_files import written_whole


@dataclass
class Scenes:
    """Pictures as the vision tower sees them, and what is said of each.

    `features` (n, N, 384) float16; `conversations`: messages about each picture, which is in the first of them.
    """

    features: torch.Tensor
    conversations: list[list[dict]]


class FeaturesAsPixels(nn.Module):
    """In the place of the vision tower: what stands for its pixel values are its features."""

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=pixel_values, hidden_states=(pixel_values,))


def read_scenes(
    encoder: Dinov2Model, split: str, count: int, image_size: int, tasks: Sequence[str], batch_size: int = 32
) -> Scenes:
    """The first `count` scenes of a split, and one conversation about each, of a row of each task."""
    rows = EmojiScenes(split, count, SceneConfig(image_size=image_size), tasks=tuple(tasks), rows_per_scene=len(tasks))
    features, conversations = [], []
    for start in tqdm(range(0, count, batch_size), desc=f"{split}, {image_size} pixels", leave=False):
        pictures = []
        for scene in range(start, min(start + batch_size, count)):
            own = [rows[scene * len(tasks) + task] for task in range(len(tasks))]
            pictures.append(np.asarray(own[0]["images"][0]))
            conversations.append(own[0]["messages"] + [turn for row in own[1:] for turn in _unseen(row["messages"])])
        pixels = torch.tensor(np.stack(pictures)) / 255
        pixels = (pixels - torch.tensor(IMAGENET_DEFAULT_MEAN)) / torch.tensor(IMAGENET_DEFAULT_STD)
        with torch.no_grad():
            # LLaVA's choice of a layer: the last but one, without the class token
            states = encoder(pixels.permute(0, 3, 1, 2), output_hidden_states=True).hidden_states[-2][:, 1:]
        features.append(states.half())
    return Scenes(torch.cat(features), conversations)


def kept_scenes(
    file: Path, *, encoder: Dinov2Model, split: str, count: int, image_size: int, tasks: Sequence[str]
) -> Scenes:
    """`read_scenes`, from the file where they are there, and else into it.

    Raises:
        ValueError: the file holds other scenes, or those of another encoder.
    """
    of = {"split": split, "count": count, "image_size": image_size, "tasks": list(tasks)}
    of["encoder"] = weights_digest(encoder)
    if not file.exists():
        scenes = read_scenes(encoder, split, count, image_size, tasks)
        with written_whole(file) as part:
            save_file(
                {"features": scenes.features},
                part,
                {"of": json.dumps(of), "conversations": json.dumps(scenes.conversations)},
            )
        return scenes
    with safe_open(file, "pt") as kept:
        if (found := json.loads(kept.metadata()["of"])) != of:
            raise ValueError(f"{file} holds the features of {found}, not of {of}: remove it, or give a new --output.")
        return Scenes(kept.get_tensor("features"), json.loads(kept.metadata()["conversations"]))


def captions_alone(scenes: Scenes) -> Scenes:
    """The same pictures, each with the last request of its conversation alone, and the answer to it."""
    conversations = []
    for first, *_, request, answer in scenes.conversations:
        picture = next(part for part in first["content"] if part["type"] == "image")
        conversations.append([{**request, "content": [picture, *request["content"]]}, answer])
    return Scenes(scenes.features, conversations)


def _unseen(messages: list[dict]) -> list[dict]:
    """Messages about a picture that was shown before."""
    words = [part for part in messages[0]["content"] if part["type"] != "image"]
    return [{**messages[0], "content": words}, *messages[1:]]


def small_llava(
    language_model: str, num_patches: int, width: int, seed: int
) -> tuple[LlavaForConditionalGeneration, SetokimProcessor]:
    """A new MLP before a language model (folder or Hub id, see `load_language_model`), and what makes its token ids."""
    torch.manual_seed(seed)
    words = load_language_model(language_model)
    processor = SetokimProcessor.from_parts(SetokImageProcessor(), AutoTokenizer.from_pretrained(language_model))
    words.resize_token_embeddings(len(processor.tokenizer))
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=width, num_hidden_layers=1, num_attention_heads=1, intermediate_size=1
        ),
        text_config=words.config,
        image_token_id=processor.image_token_id,
        image_seq_length=num_patches,
        vision_feature_layer=0,
        vision_feature_select_strategy="full",
        tie_word_embeddings=words.config.tie_word_embeddings,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = FeaturesAsPixels()
    model.model.language_model.load_state_dict(words.base_model.state_dict())
    model.lm_head.load_state_dict(words.get_output_embeddings().state_dict())
    model.generation_config.update(
        pad_token_id=processor.tokenizer.pad_token_id, eos_token_id=processor.tokenizer.eos_token_id
    )
    return model, processor


def batch_of(
    processor: SetokimProcessor, scenes: Scenes, numbers: Sequence[int], answered: bool
) -> dict[str, torch.Tensor]:
    """The inputs of some scenes: pictures with conversations and labels, or with the first question of each alone."""
    ids, labels = [], []
    for row, is_answer in conversation_tokens(processor, [scenes.conversations[number] for number in numbers]):
        row, is_answer = torch.tensor(row), torch.tensor(is_answer, dtype=torch.bool)
        if not answered:
            row, is_answer = (of_row[: is_answer.nonzero()[0]] for of_row in (row, is_answer))
        # Of the picture's one token, as many as it has patches
        repeats = torch.where(row == processor.image_token_id, scenes.features.shape[1], 1)
        ids.append(row.repeat_interleave(repeats))
        labels.append(row.where(is_answer, IGNORED).repeat_interleave(repeats))
    side = "right" if answered else "left"
    pad = nn.utils.rnn.pad_sequence
    batch = {
        "input_ids": pad(ids, True, processor.tokenizer.pad_token_id, side),
        "attention_mask": pad([torch.ones_like(x) for x in ids], True, 0, side),
        "pixel_values": scenes.features[list(numbers)].float(),
    }
    return batch | ({"labels": pad(labels, True, IGNORED, side)} if answered else {})


def train(
    model: LlavaForConditionalGeneration,
    processor: SetokimProcessor,
    scenes: Scenes,
    steps: int,
    *,
    learning_rate: float,
    batch_size: int = 16,
    seed: int = 0,
) -> None:
    """AdamW over scenes in a random order, the learning rate warmed up over a tenth and falling to nothing; of 0 steps
    nothing is learned."""
    if not steps:
        return
    order = torch.randperm(len(scenes.conversations), generator=torch.Generator().manual_seed(seed)).tolist()
    numbers = islice(cycle(order), steps * batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in (progress := tqdm(range(steps), desc="training", leave=False)):
        batch = batch_of(processor, scenes, list(islice(numbers, batch_size)), answered=True)
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()


def answers(
    model: LlavaForConditionalGeneration, processor: SetokimProcessor, scenes: Scenes, batch_size: int = 64
) -> list[bool]:
    """Whether the model's answer to the first question about each picture is the right one, word for word."""
    right = []
    for start in range(0, len(scenes.conversations), batch_size):
        numbers = range(start, min(start + batch_size, len(scenes.conversations)))
        batch = batch_of(processor, scenes, numbers, answered=False)
        ids = model.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
        said = processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        right += [
            text.strip() == scenes.conversations[number][1]["content"][0]["text"]
            for text, number in zip(said, numbers, strict=True)
        ]
    return right
