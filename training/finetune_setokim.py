"""Stage II: instruction tuning of Setokim with TRL's SFTTrainer, in full or with LoRA (PEFT). One YAML file holds a
whole recipe; arguments after it take precedence.

accelerate launch training/finetune_setokim.py training/recipes/setokim_emoji_tiny_finetune.yaml [--max_steps 100 ...]
"""

import dataclasses
import logging
import math
import sys
from dataclasses import dataclass, field

from datasets import Dataset
from peft import LoraConfig
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from training.checkpoints import last_checkpoint, train_on
from training.configs import nearest
from training.data.setokim_collator import SetokimCollator
from training.data.sources import MixtureArguments, load_eval_sets, load_rows, within
from training.dry_run import DryRunArguments, ModelSource, dry_run
from training.freezing import part_sizes, train_only
from training.recipe import check_ranges, parse_recipe, whole_weights
from training.streaming import refuse_endless, skipped_rows
from training.token_cache import from_token_cache, refuse_trained_setok
from training.trainer_setokim import VISUAL_HEADS, SetokimArguments, SetokimTrainerMixin, load_setokim, row_lengths

logger = logging.getLogger(__name__)


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "Setokim of stage I (folder or Hub id)"})
    config: dict | None = field(default=None, metadata={"help": "values of its configuration to change"})
    trainable: list[str] | None = field(
        default=None,
        metadata={"help": "parts to train in full; default, without lora: the language model and the visual heads"},
    )
    lora: dict | None = field(
        default=None,
        metadata={"help": "values of peft.LoraConfig: adapters on the language model; the visual heads train in full"},
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, flex_..."})

    def __post_init__(self):
        if self.lora is not None and self.trainable is not None:
            raise ValueError("With lora, what else is trained stands in lora as modules_to_save; leave trainable out.")


@dataclass
class SetokimSFTConfig(SetokimArguments, SFTConfig):
    """Arguments of stage II beside those of `trl.SFTConfig`."""


class SetokimSFTTrainer(SetokimTrainerMixin, SFTTrainer):
    """TRL's SFTTrainer with the model's own loss: TRL's computes that of the text from the hidden states alone, without
    the diffusion loss, the mask loss and the number of visual tokens. It trains on any dataset with rows."""

    def __init__(self, *args, train_dataset, **kwargs):
        # TRL takes nothing but `datasets`, and only looks at whether rows have images: then it leaves them as they are
        super().__init__(*args, train_dataset=Dataset.from_dict({"images": [[]]}), **kwargs)
        self.train_dataset = train_dataset


def main(arguments: list[str] | None = None) -> SetokimSFTTrainer:
    model_args, data_args, training_args, dry_run_args = parse_recipe(
        (ModelArguments, MixtureArguments, SetokimSFTConfig, DryRunArguments),
        sys.argv[1:] if arguments is None else arguments,
    )
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING, format="%(message)s")
    set_seed(training_args.seed)

    check_ranges(data_args, train_examples=1, eval_examples=0)
    if data_args.streaming:
        refuse_endless(training_args)
    if dry_run_args.dry_run:
        source = ModelSource(model_args.model_name_or_path, config=model_args.config)
        sys.exit(dry_run(dry_run_args, source, data_args, training_args))
    adapter = None if model_args.lora is None else lora_config(model_args.lora)
    checkpoint = last_checkpoint(training_args)
    with whole_weights(training_args):
        model, processor = load_setokim(
            model_args.model_name_or_path, model_args.config, model_args.attn_implementation
        )
    if adapter is None:
        default = ("model.language_model", "lm_head", *VISUAL_HEADS)
        train_only(model, default if model_args.trainable is None else model_args.trainable)
    lengths = row_lengths(model, processor, training_args.max_length, data_args.long_rows)
    train_data = within(load_rows(data_args, training_args.seed, skipped_rows(training_args)), lengths)
    trainer = SetokimSFTTrainer(
        model=model,
        args=training_args,
        data_collator=SetokimCollator(processor, lengths),
        train_dataset=from_token_cache(data_args, train_data, model.model.setok, processor.image_processor),
        eval_dataset=load_eval_sets(data_args, lengths) or None,
        processing_class=processor,
        peft_config=adapter,
    )
    if data_args.token_cache is not None:
        refuse_trained_setok(trainer.model)  # adapters, too, have their places by now
    logger.info("Parameters: %s", part_sizes(model))
    if train_on(trainer, checkpoint, [model_args.model_name_or_path]):
        trainer.save_model()
        trainer.save_state()  # last: it tells that the final model is whole
    return trainer


def lora_config(values: dict) -> LoraConfig:
    """Adapters on the language model; the visual heads, which are small, train in full and are saved with them.

    Raises:
        ValueError: for a value that `peft.LoraConfig` does not have or does not take.
    """
    known = {value.name for value in dataclasses.fields(LoraConfig) if value.init}
    for name in values:
        if name not in known:
            raise ValueError(f"{name} is not a value of lora (peft.LoraConfig).{nearest(str(name), known)}")
    for name, kinds in (("r", int), ("lora_alpha", (int, float)), ("lora_dropout", (int, float))):
        value = values.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < math.inf:
            raise ValueError(f"{name} of lora must be a number that is not negative, got {value!r}.")
    defaults = {
        "target_modules": r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        "modules_to_save": [name.split(".")[-1] for name in VISUAL_HEADS],
    }
    return LoraConfig(**(defaults | values))


if __name__ == "__main__":
    main()
