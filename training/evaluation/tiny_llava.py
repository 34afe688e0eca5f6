"""A LLaVA of transformers with random weights, to try things on where nothing can be fetched.

    python -m training.evaluation.tiny_llava build/tiny-llava

It sees 112 x 112 pixels as 64 patches, knows the words that it is given, and answers nonsense.
"""

import argparse
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip import CLIPImageProcessorPil

SIDE, PATCH = 112, 14
WORDS = "user assistant : Describe the picture . What colour is it ? red green blue owl car plain background a on"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }} : {% for part in message.content %}"
    "{% if part.type == 'image' %}<image> {% else %}{{ part.text }} {% endif %}{% endfor %}"
    "{% if message.role == 'assistant' %}</s> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def tiny_llava(words: Sequence[str] = tuple(WORDS.split())) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Always the same random weights (2 layers, 64 wide), and a processor with a word for each token."""
    ids = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "<image>", *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            additional_special_tokens=["<image>"],
        ),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )
    layers = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    text = LlamaConfig(
        **layers, num_key_value_heads=2, vocab_size=len(ids), pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**layers, image_size=SIDE, patch_size=PATCH),
        text_config=text,
        image_token_id=ids["<image>"],
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.suppress_tokens = [ids["<image>"]]
    return model, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="build/tiny-llava", help="default: build/tiny-llava")
    folder = parser.parse_args().folder
    for part in tiny_llava():
        part.save_pretrained(folder)
    print(f"A LLaVA of random weights: {folder}")


if __name__ == "__main__":
    main()
