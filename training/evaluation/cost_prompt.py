"""What a prompt with an image costs a language model: all patches beside concept tokens, in one run.

    python -m training.evaluation.cost_prompt                # a Llama of SmolLM2-135M's size, 576 and 729 patches
    python -m training.evaluation.cost_prompt --device cuda

Weights are random, and the patches are planted in 16 regions (`cost.py`). What is timed is the model without its vision
tower: connector, clustering, and the language model's first step. The prompt holds the image and some words.
"""

import statistics
import time
from dataclasses import dataclass, field

import torch
from transformers import CLIPVisionConfig, HfArgumentParser, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from modeling_setok.adaption import add_concept_tokens, remove_concept_tokens
from training.evaluation.cost import planted_patches
from training.evaluation.small_llava import FeaturesAsPixels

WIDTH, IMAGE = 1152, 4  # of SigLIP's patches; the placeholder's id
SMOL_LM2_135M = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


@dataclass
class Arguments:
    grids: list[int] = field(default_factory=lambda: [24, 27], metadata={"help": "rows and columns of patches"})
    batch_sizes: list[int] = field(default_factory=lambda: [1, 4], metadata={"help": "images per prompt"})
    tokens: int = field(default=25, metadata={"help": "concept tokens of an image"})
    words: int = field(default=20, metadata={"help": "tokens of the text after it"})
    repeats: int = field(default=3, metadata={"help": "timed rounds; the median counts"})
    device: str = field(default="cpu", metadata={"help": "where to run, as PyTorch names it"})


def main() -> None:
    (args,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=1, intermediate_size=1)
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**SMOL_LM2_135M),
        image_token_id=IMAGE,
        vision_feature_layer=0,
        vision_feature_select_strategy="full",
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.model.vision_tower = FeaturesAsPixels()
    model.to(args.device)
    print("| patches | batch | all patches | concept tokens | times faster | cache, MiB | times less |")
    print("|---|---|---|---|---|---|---|")
    for grid in args.grids:
        for batch in args.batch_sizes:
            patches = planted_patches(batch, grid, WIDTH, torch.device(args.device))
            words = torch.randint(5, 1000, (batch, args.words), device=args.device)
            inputs = {
                "input_ids": torch.cat([words.new_full((batch, grid**2), IMAGE), words], dim=1),
                "pixel_values": patches,
            }
            before, cache_before = _cost(model, inputs, args.repeats)
            after, cache_after = _cost(add_concept_tokens(model, fixed_tokens=args.tokens), inputs, args.repeats)
            remove_concept_tokens(model)
            print(
                f"| {grid**2} | {batch} | {before:.3f} s | {after:.3f} s | {before / after:.1f} "
                f"| {cache_before:.1f}, {cache_after:.1f} | {cache_before / cache_after:.1f} |",
                flush=True,
            )


@torch.no_grad()
def _cost(model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor], repeats: int) -> tuple[float, float]:
    """Median seconds of the first step, and MiB of the cache that it leaves."""
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        start = time.perf_counter()
        cache = model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
        if inputs["input_ids"].is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), sum(x.keys.nbytes + x.values.nbytes for x in cache.layers) / 2**20


if __name__ == "__main__":
    main()
