"""A small LLaVA of transformers that answers about EmojiScenes: what token reductions are compared on.

Its vision tower is a frozen DINOv2, whose features are computed once; what is trained is the MLP and a language model
from scratch.
"""

import json
from collections.abc import Iterator, Sequence
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
    CLIPVisionConfig,
    Dinov2Model,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.modeling_outputs import BaseModelOutput

from modeling_setok.kept_columns import IGNORED
from training.data import EmojiScenes, SceneConfig
from training.data.bpe_tokenizer import train_tokenizer
from training.evaluation.report import written_whole
from training.packaged_models.digest import weights_digest

IMAGE = "<image>"


@dataclass
class Scenes:
    """Pictures as the vision tower sees them, and what is said of each.

    `features` (n, N, 384) float16; `turns`: for each picture, questions and answers.
    """

    features: torch.Tensor
    turns: list[list[tuple[str, str]]]


class FeaturesAsPixels(nn.Module):
    """In the place of the vision tower: what stands for its pixel values are its features."""

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=pixel_values, hidden_states=(pixel_values,))


def read_scenes(
    encoder: Dinov2Model, split: str, count: int, image_size: int, tasks: Sequence[str], batch_size: int = 32
) -> Scenes:
    """The first `count` scenes of a split, one row of each task about each."""
    rows = EmojiScenes(split, count, SceneConfig(image_size=image_size), tasks=tuple(tasks), rows_per_scene=len(tasks))
    features, turns = [], []
    for start in tqdm(range(0, count, batch_size), desc=f"{split}, {image_size} pixels", leave=False):
        pictures = []
        for scene in range(start, min(start + batch_size, count)):
            own = [rows[scene * len(tasks) + task] for task in range(len(tasks))]
            pictures.append(np.asarray(own[0]["images"][0]))
            turns.append([turn for row in own for turn in _turns(row["messages"])])
        pixels = torch.tensor(np.stack(pictures)) / 255
        pixels = (pixels - torch.tensor(IMAGENET_DEFAULT_MEAN)) / torch.tensor(IMAGENET_DEFAULT_STD)
        with torch.no_grad():
            # LLaVA's choice of a layer: the last but one, without the class token
            states = encoder(pixels.permute(0, 3, 1, 2), output_hidden_states=True).hidden_states[-2][:, 1:]
        features.append(states.half())
    return Scenes(torch.cat(features), turns)


def kept_scenes(
    file: Path | None, *, encoder: Dinov2Model, split: str, count: int, image_size: int, tasks: Sequence[str]
) -> Scenes:
    """`read_scenes`, from the file where they are there, and else into it; `None`: kept nowhere.

    Raises:
        ValueError: the file holds other scenes, or those of another encoder.
    """
    if file is None:
        return read_scenes(encoder, split, count, image_size, tasks)
    of = {"split": split, "count": count, "image_size": image_size, "tasks": list(tasks)}
    of["encoder"] = weights_digest(encoder)
    if not file.exists():
        scenes = read_scenes(encoder, split, count, image_size, tasks)
        with written_whole(file) as part:
            save_file({"features": scenes.features}, part, {"of": json.dumps(of), "turns": json.dumps(scenes.turns)})
        return scenes
    with safe_open(file, "pt") as kept:
        if (found := json.loads(kept.metadata()["of"])) != of:
            raise ValueError(f"{file} holds the features of {found}, not of {of}: remove it, or give a new --output.")
        turns = json.loads(kept.metadata()["turns"])
        return Scenes(kept.get_tensor("features"), [[tuple(turn) for turn in own] for own in turns])


def _turns(messages: list[dict]) -> Iterator[tuple[str, str]]:
    texts = ["".join(part["text"] or "" for part in message["content"]).strip() for message in messages]
    return zip(texts[::2], texts[1::2], strict=True)


def learn_words(scenes: Scenes, vocab_size: int = 512) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer((f"{text} " for turns in scenes.turns for turn in turns for text in turn), vocab_size)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    return tokenizer


def small_llava(
    tokenizer: PreTrainedTokenizerFast, num_patches: int, width: int, seed: int
) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    text = LlamaConfig(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = CLIPVisionConfig(hidden_size=width, num_hidden_layers=1, num_attention_heads=1, intermediate_size=1)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=num_patches,
        vision_feature_layer=0,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = FeaturesAsPixels()
    return model


def batch_of(
    tokenizer: PreTrainedTokenizerFast, scenes: Scenes, rows: Sequence[tuple[int, int]], answered: bool
) -> dict[str, torch.Tensor]:
    """The inputs of rows (scene, turn): the picture, a question, and its answer with labels."""
    num_patches, images = scenes.features.shape[1], tokenizer.convert_tokens_to_ids(IMAGE)
    ids, labels = [], []
    for scene, turn in rows:
        question, answer = (tokenizer(text)["input_ids"] for text in scenes.turns[scene][turn])
        prompt = [images] * num_patches + question + [tokenizer.convert_tokens_to_ids("<|im_start|>")]
        answer = [*answer, tokenizer.eos_token_id] if answered else []
        ids.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([IGNORED] * len(prompt) + answer))
    side = "right" if answered else "left"
    pad = nn.utils.rnn.pad_sequence
    batch = {
        "input_ids": pad(ids, True, tokenizer.pad_token_id, side),
        "attention_mask": pad([torch.ones_like(x) for x in ids], True, 0, side),
        "pixel_values": scenes.features[[scene for scene, _ in rows]].float(),
    }
    return batch | ({"labels": pad(labels, True, IGNORED, side)} if answered else {})


def train(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    scenes: Scenes,
    steps: int,
    *,
    learning_rate: float,
    batch_size: int = 32,
    seed: int = 0,
) -> None:
    """AdamW over rows in a random order, the learning rate warmed up over a tenth and falling to nothing."""
    rows = [(scene, turn) for scene, turns in enumerate(scenes.turns) for turn in range(len(turns))]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    numbers = islice(cycle(order), steps * batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in (progress := tqdm(range(steps), desc="training", leave=False)):
        batch = batch_of(tokenizer, scenes, [rows[next(numbers)] for _ in range(batch_size)], answered=True)
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()


def answers(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, scenes: Scenes, batch_size: int = 64
) -> list[bool]:
    """Whether the model's answer to the first question about each picture is the right one, word for word."""
    right = []
    for start in range(0, len(scenes.turns), batch_size):
        rows = [(scene, 0) for scene in range(start, min(start + batch_size, len(scenes.turns)))]
        batch = batch_of(tokenizer, scenes, rows, answered=False)
        ids = model.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
        said = tokenizer.batch_decode(ids, skip_special_tokens=True)
        right += [text.strip() == scenes.turns[scene][turn][1] for text, (scene, turn) in zip(said, rows, strict=True)]
    return right
