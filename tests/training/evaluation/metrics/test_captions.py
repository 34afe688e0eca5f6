import math

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from training.evaluation.metrics import CaptionScores, caption_tokens


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's black-and-white dog, isn't running.", "a man 's black-and-white dog is n't running"),
        ("“Stop” -- it’s 10:30!", "stop it 's 10:30"),
        ("the girls' 1,000 bikes; 3.5 miles", "the girls 1,000 bikes 3.5 miles"),
        ("a red/blue U.S. flag...", "a red/blue u.s. flag"),
        ("five o'clock\n(#42)", "five o'clock ( # 42 )"),
        ("a café 🐕", "a café 🐕"),
        ("...", ""),
    ],
)
def test_tokens_as_the_tokenizer_of_the_coco_evaluation_makes_them(caption, tokens):
    assert caption_tokens(caption) == tokens.split()


def test_bleu_and_rouge_by_hand():
    result = CaptionScores().compute(
        predictions=["A dog sits.", "the cat"], references=[["a dog runs", "a big dog sits down here"], ["a cat"]]
    )
    # told 5 words, of which a, dog, sits and cat are true; the nearest true lengths are 3 and 2: no penalty
    assert result["bleu_1"] == pytest.approx(4 / 5)
    # 3 pairs: "a dog" is true, "dog sits" as well
    assert result["bleu_2"] == pytest.approx(math.sqrt(4 / 5 * 2 / 3))

    def f(precision, recall):
        return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)

    # best precision (3 of 3, by the second) and best recall (2 of 3, by the first)
    assert result["rouge_l"] == pytest.approx((f(1, 2 / 3) + f(1 / 2, 1 / 2)) / 2)


def test_cider_by_hand():
    result = CaptionScores().compute(predictions=["a red dog", "a owl"], references=[["a red dog"], ["a cat"]])
    # The first is its reference: cosine 1 for words, pairs and triples, and it has no four words in a row. Of the
    # second only "a" is true, which all pictures have: it weighs log(2 / 2).
    assert result["cider_d"] == pytest.approx(10 * (3 / 4 + 0) / 2)


def test_equals_the_package_on_the_same_words():
    predictions = ["a man rides a horse on a beach", "two dogs play in the snow", "a plate of food"]
    references = [
        ["a man on a horse at the beach", "someone rides a horse"],
        ["two dogs are playing in the snow", "dogs in the snow now", "two brown dogs run", "..."],
        ["a white plate with food on it"],
    ]
    result = CaptionScores().compute(
        predictions=[text.capitalize() + "." for text in predictions],
        references=[[text.upper() + "!" for text in texts] for texts in references],
    )
    told = {i: [text] for i, text in enumerate(predictions)}
    true = {i: [text.replace("...", "") for text in texts] for i, texts in enumerate(references)}
    expected = {"cider_d": Cider().compute_score(true, told)[0], "rouge_l": Rouge().compute_score(true, told)[0]}
    bleu, _ = Bleu(4).compute_score(true, told, verbose=0)  # of lengths that are as near, the shorter counts
    expected |= {f"bleu_{n}": value for n, value in enumerate(bleu, start=1)}
    assert {name: result[name] for name in expected} == expected
    assert all(type(value) is float for value in result.values())


def test_batches_add_up():
    pairs = [("a cat", ["the cat", "a cat sits"]), ("", ["an owl"]), ("two red cars", ["two cars"])]
    whole = CaptionScores().compute(predictions=[p for p, _ in pairs], references=[r for _, r in pairs])
    metric = CaptionScores()
    for prediction, captions in pairs:
        metric.add_batch(predictions=[prediction], references=[captions])
    assert metric.compute() == whole


def test_refuses_what_are_no_captions():
    for captions in ("a cat", []):
        with pytest.raises(ValueError, match="list of captions"):
            CaptionScores().add_batch(predictions=["a cat"], references=[captions])
    with pytest.raises(ValueError, match="None of the true captions of a picture has a word"):
        CaptionScores().add_batch(predictions=["a cat"], references=[["...", "!"]])
