"""Stage II: instruction tuning of Setokim with TRL's SFTTrainer, in full or with LoRA (PEFT). One YAML file holds a whole
recipe; arguments after it take precedence.

accelerate launch training/finetune_setokim.py training/recipes/setokim_emoji_tiny_finetune.yaml [--max_steps 100 ...]
"""

import logging
import sys
from dataclasses import dataclass, field

import torch
from peft import LoraConfig
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from modeling_setok import SetokimForConditionalGeneration
from processing import SetokimProcessor
from training.data.setokim_collator import SetokimCollator
from training.data.sources import load_eval_sets, load_mixture
from training.freezing import train_only
from training.recipe import last_checkpoint, parse_recipe, update_config
from training.trainer_setokim import VISUAL_HEADS, SetokimTrainerMixin, part_sizes

logger = logging.getLogger(__name__)


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "Setokim of stage I (folder or Hub id)"})
    config: dict | None = field(default=None, metadata={"help": "values of its configuration to change"})
    trainable: list[str] = field(
        default_factory=lambda: ["model.language_model", "lm_head", *VISUAL_HEADS],
        metadata={"help": "parts to train in full, all others are frozen; not with lora"},
    )
    lora: dict | None = field(
        default=None,
        metadata={"help": "values of peft.LoraConfig: adapters on the language model; the visual heads train in full"},
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, flex_..."})


@dataclass
class DataArguments:
    mixture: list[dict] = field(
        default_factory=list, metadata={"help": "the data and their weights (see training/data/sources.py)"}
    )
    train_examples: int = field(default=100_000, metadata={"help": "rows of the mixture in one epoch"})
    eval_examples: int = field(default=64, metadata={"help": "rows held out from each part for evaluation"})


@dataclass
class SetokimSFTConfig(SFTConfig):
    """Arguments of stage II beside those of `trl.SFTConfig`."""

    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator reads the rows' columns itself"})
    prediction_loss_only: bool = field(default=True, metadata={"help": "evaluation measures the losses"})
    max_length: int | None = field(
        default=2048, metadata={"help": "longest text in tokens, an image counted as one; longer rows are refused"}
    )
    visual_learning_rate: float | None = field(
        default=None, metadata={"help": "learning rate outside the language model; default: the same"}
    )


class SetokimSFTTrainer(SetokimTrainerMixin, SFTTrainer):
    """TRL's SFTTrainer with the model's own loss: TRL's computes the text loss from the hidden states alone, without the
    diffusion loss, the mask loss and the number of visual tokens."""


def main(arguments: list[str] | None = None) -> SetokimSFTTrainer:
    model_args, data_args, training_args = parse_recipe(
        (ModelArguments, DataArguments, SetokimSFTConfig), sys.argv[1:] if arguments is None else arguments
    )
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING, format="%(message)s")
    set_seed(training_args.seed)

    processor = SetokimProcessor.from_pretrained(model_args.model_name_or_path)
    options = {"attn_implementation": model_args.attn_implementation} if model_args.attn_implementation else {}
    model = SetokimForConditionalGeneration.from_pretrained(
        model_args.model_name_or_path, dtype=torch.float32, **options
    )
    update_config(model.config, model_args.config or {})
    if model_args.lora is None:
        train_only(model, model_args.trainable)
    trainer = SetokimSFTTrainer(
        model=model,
        args=training_args,
        data_collator=SetokimCollator(processor, max_length=training_args.max_length),
        train_dataset=load_mixture(data_args.mixture, data_args.train_examples, seed=training_args.seed),
        eval_dataset=load_eval_sets(data_args.mixture, data_args.eval_examples) or None,
        processing_class=processor,
        peft_config=None if model_args.lora is None else lora_config(model_args.lora),
    )
    logger.info("Parameters: %s", part_sizes(model))
    trainer.train(resume_from_checkpoint=last_checkpoint(training_args))
    trainer.save_state()
    trainer.save_model()
    return trainer


def lora_config(values: dict) -> LoraConfig:
    """Adapters on the language model; the visual heads, which are small, train in full and are saved with them."""
    defaults = {
        "target_modules": r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        "modules_to_save": [name.split(".")[-1] for name in VISUAL_HEADS],
    }
    return LoraConfig(**(defaults | values))


if __name__ == "__main__":
    main()
