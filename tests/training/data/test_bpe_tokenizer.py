"""The tokenizer for small language models: no loss, digits, special tokens, determinism, refused arguments."""

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training.data.bpe_tokenizer import train_tokenizer

TEXTS = ["Describe the picture.", "It shows a dog face and two bunches of grapes.", "How many are there? 12"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab_size=300)


@pytest.mark.parametrize(
    "text",
    [
        "Describe the picture.",
        "  leading,  double and trailing spaces  ",
        "lines\nand\r\n\n\ttabs\t\n",
        "Ünïcödé, 汉字, عربى, 🦊👩‍👩‍👧, e\u0301, \u200b\ufeff\x00\x7f",
        "don't , it 's . a space before punctuation ?",
        "<|im_start|>user\nHi <|im_end|>\n",
        "",
        " ",
    ],
)
def test_any_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_byte_has_a_token(tokenizer):
    text = "".join(map(chr, range(0x250))) + "\U0010ffff"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert None not in ids and tokenizer.unk_token is None


def test_digits_stand_alone(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer("x12345")["input_ids"]) == ["x", *"12345"]
    assert not [token for token in tokenizer.get_vocab() if len(token) > 1 and any(c.isdigit() for c in token)]


def test_the_texts_are_learnt(tokenizer):
    seen, unseen = "Describe the picture.", "Zymurgy quells vex."
    assert len(tokenizer(seen)["input_ids"]) < len(seen) / 2
    assert len(tokenizer(unseen)["input_ids"]) > 0.8 * len(unseen)


def test_special_tokens(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|pad|>", "<|im_end|>")
    assert tokenizer("<|pad|><|im_start|><|im_end|>")["input_ids"] == [0, 1, 2]
    assert tokenizer("Hi")["input_ids"] == tokenizer("Hi", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokenizer("<|im_start|>Hi<|im_end|>")["input_ids"], skip_special_tokens=True) == "Hi"
    assert set(tokenizer("Hi")) == {"input_ids", "attention_mask"}  # no token types, which Llama refuses


def test_same_texts_same_tokenizer(tokenizer):
    again = train_tokenizer(iter(TEXTS), vocab_size=300)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_vocab_size_is_a_limit(tokenizer):
    assert len(tokenizer) == tokenizer.vocab_size == 300
    assert len(train_tokenizer(TEXTS, vocab_size=259)) == 259
    assert 259 < len(train_tokenizer(["aaaa"], vocab_size=1000)) < 1000
    assert len(train_tokenizer([], vocab_size=1000)) == 259


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Two  dogs,\n 12 🦊<|im_end|> ."
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 2)
    assert set(loaded(text)) == {"input_ids", "attention_mask"}


def test_refused_arguments():
    with pytest.raises(ValueError, match="at least 259.*got 258"):
        train_tokenizer(TEXTS, vocab_size=258)
    with pytest.raises(ValueError, match=r"one string; pass \[text\]"):
        train_tokenizer("a text", vocab_size=300)
