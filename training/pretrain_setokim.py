"""Stage I: pretrains Setokim on a mixture of tasks, or one of its parts alone. One YAML file holds a whole recipe;
arguments after it take precedence.

accelerate launch training/pretrain_setokim.py training/recipes/setokim_emoji_tiny_pretrain.yaml [--max_steps 100 ...]
"""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from modeling_setok import SetokForPreTraining, SetokimConfig, SetokimForConditionalGeneration
from modeling_setok.configuration_setokim import SPECIAL_TOKEN_IDS
from processing import SetokImageProcessor, SetokimProcessor
from training.checkpoints import last_checkpoint, train_on
from training.configs import config_class_of, new_config, refuse_unknown_values
from training.data.bpe_tokenizer import train_tokenizer
from training.data.setokim_collator import SetokimCollator
from training.data.sources import MixtureArguments, load_eval_sets, load_rows, within
from training.dry_run import DryRunArguments, ModelSource, dry_run
from training.freezing import part_sizes, train_only
from training.loading import load_language_model, load_whole
from training.projector_names import begin_with_names
from training.recipe import check_ranges, parse_recipe, whole_weights
from training.streaming import refuse_endless, skipped_rows
from training.token_cache import from_token_cache, refuse_trained_setok
from training.trainer_setokim import SetokimTrainer, SetokimTrainingArguments, load_setokim, row_lengths

logger = logging.getLogger(__name__)

NEW = (
    "setok_model_name_or_path",
    "language_model_name_or_path",
    "text_config",
    "names_in_projector",
)  # what a new Setokim is made of
# Values of a new Setokim that follow from what it is made of
GIVEN = ("vision_config", "text_config", *SPECIAL_TOKEN_IDS)


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "Setokim to go on from (folder or Hub id)"})
    setok_model_name_or_path: str | None = field(default=None, metadata={"help": "SeTok of a new Setokim"})
    language_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "causal language model of a new Setokim, with its tokenizer, or a Setokim to take both of"},
    )
    text_config: dict | None = field(
        default=None,
        metadata={"help": "configuration (with model_type) of a language model from scratch, in place of a pretrained"},
    )
    tokenizer_vocab_size: int = field(
        default=1024, metadata={"help": "size of a tokenizer learned from the texts of the data, for text_config"}
    )
    tokenizer_rows: int = field(default=20_000, metadata={"help": "rows from whose texts that tokenizer is learned"})
    config: dict | None = field(
        default=None, metadata={"help": "values of SetokimConfig that differ from its defaults"}
    )
    trainable: list[str] = field(
        default_factory=lambda: ["model.multi_modal_projector", "model.language_model", "lm_head", "diffusion_head"],
        metadata={"help": "parts to train; all others are frozen"},
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, flex_..."})
    calibration_images: int = field(
        default=512, metadata={"help": "training images on which a new Setokim measures the scale of visual tokens"}
    )
    names_in_projector: bool = field(
        default=False,
        metadata={"help": "the projector of a new Setokim begins with the names that SeTok has for tokens"},
    )

    def __post_init__(self):
        check_ranges(self, tokenizer_vocab_size=1, tokenizer_rows=1, calibration_images=1)
        new = [name for name in NEW if getattr(self, name)]
        if self.model_name_or_path and new:
            raise ValueError(
                f"model_name_or_path goes on from a Setokim; {', '.join(new)} {'are' if new[1:] else 'is'} of a new "
                "one. Leave out one or the other."
            )
        if self.language_model_name_or_path and self.text_config:
            raise ValueError(
                "language_model_name_or_path is a pretrained language model, text_config one from scratch: leave out "
                "one of them."
            )


def main(arguments: list[str] | None = None) -> SetokimTrainer:
    model_args, data_args, training_args, dry_run_args = parse_recipe(
        (ModelArguments, MixtureArguments, SetokimTrainingArguments, DryRunArguments),
        sys.argv[1:] if arguments is None else arguments,
    )
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING, format="%(message)s")
    set_seed(training_args.seed)

    check_ranges(data_args, train_examples=1, eval_examples=0)
    if data_args.streaming:
        refuse_endless(training_args)
    if dry_run_args.dry_run:
        sys.exit(dry_run(dry_run_args, model_source(model_args), data_args, training_args))
    train_data = load_rows(data_args, training_args.seed, skipped_rows(training_args))
    made_from = (
        model_args.model_name_or_path, model_args.setok_model_name_or_path, model_args.language_model_name_or_path
    )  # fmt: skip
    checkpoint = last_checkpoint(training_args)
    if checkpoint is not None:  # which has the vocabulary and the scale of visual tokens that the run began with
        model_args.model_name_or_path = checkpoint
    with whole_weights(training_args):
        model, processor = build_model(model_args, train_data)
    train_only(model, model_args.trainable)
    logger.info("Parameters: %s", part_sizes(model))
    lengths = row_lengths(model, processor, training_args.max_length, data_args.long_rows)
    train_data = within(train_data, lengths)
    trainer = SetokimTrainer(
        model=model,
        args=training_args,
        data_collator=SetokimCollator(processor, lengths),
        train_dataset=from_token_cache(data_args, train_data, model.model.setok, processor.image_processor),
        eval_dataset=load_eval_sets(data_args, lengths) or None,
        processing_class=processor,
    )
    if data_args.token_cache is not None:
        refuse_trained_setok(model)
    if train_on(trainer, checkpoint, made_from):
        trainer.save_model()
        trainer.save_state()  # last: it tells that the final model is whole
    return trainer


def build_model(args: ModelArguments, rows) -> tuple[SetokimForConditionalGeneration, SetokimProcessor]:
    """A Setokim to train, in float32, and its processor."""
    if args.model_name_or_path is not None:
        return load_setokim(args.model_name_or_path, args.config, args.attn_implementation)
    if args.setok_model_name_or_path is None:
        raise ValueError("A new Setokim needs setok_model_name_or_path; to go on from one give model_name_or_path.")
    values = args.config or {}
    refuse_unknown_values(SetokimConfig, values)
    if given := sorted(set(values).intersection(GIVEN)):
        raise ValueError(f"config of a new Setokim cannot set {given}: SeTok, language model and tokenizer do.")
    setok = load_whole(SetokForPreTraining.from_pretrained, args.setok_model_name_or_path, "setok", dtype=torch.float32)
    image_processor = SetokImageProcessor.from_pretrained(args.setok_model_name_or_path)
    if args.language_model_name_or_path is not None:
        language_model = load_language_model(args.language_model_name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(args.language_model_name_or_path)
        processor = SetokimProcessor.from_parts(image_processor, tokenizer)
    elif args.text_config is not None:
        texts = (part["text"] for row in islice(rows, args.tokenizer_rows) for part in _text_parts(row))
        processor = SetokimProcessor.from_parts(image_processor, train_tokenizer(texts, args.tokenizer_vocab_size))
        tokenizer = processor.tokenizer
        text_values = (
            {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
            | {name: value for name, value in args.text_config.items() if name != "model_type"}
            | {"vocab_size": len(tokenizer)}
        )
        text_config = new_config(config_class_of("text_config", args.text_config), text_values)
        language_model = AutoModelForCausalLM.from_config(text_config)
    else:
        raise ValueError("A new Setokim needs language_model_name_or_path or text_config.")
    model = SetokimForConditionalGeneration.from_parts(setok, language_model, processor, **values)
    if args.attn_implementation is not None:
        model.set_attn_implementation(args.attn_implementation)
    images = list(islice((picture for row in rows for picture in row["images"]), args.calibration_images))
    model.calibrate(_pixels(images, image_processor))
    if args.names_in_projector:
        begin_with_names(model, setok, processor, _pixels(images, image_processor))
    return model, processor


def _pixels(images: list, image_processor: SetokImageProcessor) -> Iterator[torch.Tensor]:
    """Batches of pictures as they are needed: all at once take a gigabyte at the paper's size."""
    for first in range(0, len(images), 32):
        yield image_processor(images[first : first + 32], return_tensors="pt")["pixel_values"]


def model_source(args: ModelArguments) -> ModelSource:
    """What `build_model` would begin with."""
    return ModelSource(
        args.model_name_or_path,
        args.setok_model_name_or_path,
        args.language_model_name_or_path,
        args.tokenizer_vocab_size if args.text_config is not None else None,
        args.config,
    )


def _text_parts(row: dict):
    return (part for message in row["messages"] for part in message["content"] if part["type"] == "text")


if __name__ == "__main__":
    main()
