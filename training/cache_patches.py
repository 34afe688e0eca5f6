"""Before stage 0 with a frozen encoder: runs it once on every picture of a recipe and keeps the patch embeddings.

accelerate launch training/cache_patches.py training/recipes/setok_dinov2_small.yaml

Any number of processes share the work (on CPUs: torchrun --nproc_per_node 2 training/cache_patches.py ...). A second
run goes on where the first one stopped. `train_setok.py` with the same recipe reads `patch_cache` in place of pixels.
"""

import logging
import sys

from training.data.setok_collator import SetokCollator
from training.patch_cache import write_patch_cache
from training.recipe import parse_recipe
from training.train_setok import DataArguments, ModelArguments, build_model, cache_fingerprint, load_data
from training.trainer_setok import SetokTrainingArguments


def main(arguments: list[str] | None = None) -> None:
    model_args, data_args, training_args = parse_recipe(
        (ModelArguments, DataArguments, SetokTrainingArguments), sys.argv[1:] if arguments is None else arguments
    )
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING, format="%(message)s")
    if data_args.patch_cache is None:
        raise ValueError("Say where the patch embeddings shall be kept: patch_cache: FOLDER.")
    rows, _, names = load_data(data_args)
    model, image_processor = build_model(model_args, data_args, names=None, text_features=None)
    target_size = model.config.detokenizer_config.image_size
    write_patch_cache(
        data_args.patch_cache,
        rows,
        SetokCollator(image_processor, target_size=target_size),
        model.setok.to(training_args.device),
        cache_fingerprint(model, image_processor, data_args),
        batch_size=training_args.per_device_eval_batch_size,
        process_index=training_args.process_index,
        num_processes=training_args.world_size,
    )


if __name__ == "__main__":
    main()
