"""Fast tokenizers of four kinds, and the processors that they become."""

from transformers import LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from processing import SetokImageProcessor, SetokimProcessor
from training.data.bpe_tokenizer import train_tokenizer


def small_bpe() -> PreTrainedTokenizerFast:
    """With the chat markers, without the image tokens."""
    return train_tokenizer(["Describe the picture.", "It shows a dog."], vocab_size=280)


def llama() -> PreTrainedTokenizerFast:
    """Writes a beginning of sequence; knows no chat markers and no padding."""
    pieces = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}, "▁": 259}
    return LlamaTokenizer(vocab=pieces, add_bos_token=True)


def qwen() -> PreTrainedTokenizerFast:
    """Byte-level, with chat markers; its padding is no special token of the chat."""
    return Qwen2Tokenizer(
        vocab=small_bpe().get_vocab(), merges=[], pad_token="<|endoftext|>", eos_token="<|im_end|>", bos_token=None
    )


def smollm() -> PreTrainedTokenizerFast:
    """`<|im_start|>` is the beginning of sequence, `<|im_end|>` end of sequence and padding at once."""
    return PreTrainedTokenizerFast(
        tokenizer_object=small_bpe().backend_tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template="{{ messages[0].content }}",
    )


TOKENIZERS = [small_bpe, llama, qwen, smollm]


def join(tokenizer: PreTrainedTokenizerFast) -> SetokimProcessor:
    return SetokimProcessor.from_parts(SetokImageProcessor(size={"height": 8, "width": 8}), tokenizer)
