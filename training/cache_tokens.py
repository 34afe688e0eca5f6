"""Before stage I or II with a frozen SeTok: runs it once on every picture of a recipe and keeps the concept tokens.

accelerate launch training/cache_tokens.py training/recipes/setokim_emoji_tiny_pretrain.yaml --token_cache runs/tokens

Any number of processes share the work (on CPUs: torchrun --nproc_per_node 2 training/cache_tokens.py ...). A second
run goes on where the first one stopped. `pretrain_setokim.py` or `finetune_setokim.py` with the same recipe reads
`token_cache` in place of pixels.
"""

import logging
import sys
from dataclasses import dataclass, field

from transformers import set_seed

from training import pretrain_setokim
from training.data.setokim_collator import SetokimCollator
from training.data.sources import MixtureArguments, load_rows, within
from training.finetune_setokim import SetokimSFTConfig
from training.freezing import train_only
from training.recipe import check_ranges, parse_recipe
from training.streaming import skipped_rows
from training.token_cache import refuse_trained_setok, token_fingerprint, write_token_cache
from training.trainer_setokim import row_lengths


@dataclass
class ModelArguments(pretrain_setokim.ModelArguments):
    """Those of both stages, so that the recipe of either is read."""

    trainable: list[str] | None = field(
        default=None, metadata={"help": "parts that training will train: SeTok must not be one"}
    )
    lora: dict | None = field(default=None, metadata={"help": "of stage II; makes no difference here"})


def main(arguments: list[str] | None = None) -> None:
    model_args, data_args, training_args = parse_recipe(
        (ModelArguments, MixtureArguments, SetokimSFTConfig), sys.argv[1:] if arguments is None else arguments
    )
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING, format="%(message)s")
    if data_args.token_cache is None:
        raise ValueError("Say where the concept tokens shall be kept: token_cache: FOLDER.")
    set_seed(training_args.seed)
    check_ranges(data_args, train_examples=1, eval_examples=0)
    rows = load_rows(data_args, training_args.seed, skipped_rows(training_args))
    # The whole model, as training makes it: which rows are too long hangs on a tokenizer that may be learned from them
    model, processor = pretrain_setokim.build_model(model_args, rows)
    if model_args.trainable is not None:
        train_only(model, model_args.trainable)
        refuse_trained_setok(model)
    rows = within(rows, row_lengths(model, processor, training_args.max_length, data_args.long_rows))
    setok = model.model.setok.to(training_args.device)
    write_token_cache(
        data_args.token_cache,
        rows,
        data_args.train_examples,
        SetokimCollator(processor),  # what is too long is cut when it is read
        setok,
        token_fingerprint(setok, processor.image_processor, data_args.mixture, rows),
        batch_size=training_args.per_device_eval_batch_size,
        process_index=training_args.process_index,
        num_processes=training_args.world_size,
    )


if __name__ == "__main__":
    main()
