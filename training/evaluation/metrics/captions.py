"""How near captions are to those that people wrote."""

import re
from collections.abc import Sequence

from training.evaluation.metrics.base import Metric

# Removed after splitting, as the COCO caption evaluation does; those that lie within a word ("black-and-white") stay.
_PUNCTUATION = set("'`\"“”‘.?!,:;-–—…")
_TOKEN = re.compile(
    r"\d+(?:[.,:]\d+)+"  # 1,000 and 3.5 and 10:30
    r"|(?:[a-z]\.){2,}"  # U.S.
    r"|\w+(?:['/-]\w+)*"  # o'clock and red/blue and black-and-white
    r"|[^\w\s]"
)
_CLITIC = re.compile(r"(?<=\w)(n't|'s|'m|'d|'ll|'re|'ve)$")


def caption_tokens(caption: str) -> list[str]:
    """Lower-case words without punctuation: "A man's black-and-white dog." is a, man, 's, black-and-white, dog."""
    tokens = []
    for token in _TOKEN.findall(caption.lower().replace("’", "'")):
        tokens += [part for part in _CLITIC.split(token) if part and part not in _PUNCTUATION]
    return tokens


class CaptionScores(Metric):
    """{"cider_d": 0 to 10, "bleu_1" … "bleu_4", "rouge_l": 0 to 1}, as of the COCO caption evaluation (Chen et al.
    2015, arXiv 1504.00325), by pycocoevalcap. Tables often give them times 100.

    CIDEr-D (Vedantam et al. 2015) weighs a word by how few of the pictures given here have it in their captions: it
    depends on the set of pictures, and of a single one it is 0. BLEU is over all pictures together, ROUGE-L the mean.

    Words are made by `caption_tokens`, where the evaluation has Stanford's PTBTokenizer, a program in Java. Both split
    "dog's" and "isn't", keep "red/blue" and "U.S." and drop punctuation; they differ on what is rare in captions, such
    as "Mr.", "cannot", "gonna" and addresses of the web. METEOR and SPICE, which need Java, are left out.

    Predictions: captions. References: per picture the list of its captions, one of which has a word in it or more.
    """

    def _score_batch(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> list[tuple[str, list[str]]]:
        scores = []
        for prediction, captions in zip(predictions, references, strict=True):
            if isinstance(captions, str) or not captions:
                raise ValueError(f"A reference must be a list of captions, one or more, got {captions!r}.")
            texts = [" ".join(caption_tokens(caption)) for caption in captions]
            if not any(texts):
                raise ValueError(f"None of the true captions of a picture has a word: {captions!r}. Leave it out.")
            scores.append((" ".join(caption_tokens(prediction)), texts))
        return scores

    def _reduce(self, scores: list[tuple[str, list[str]]]) -> dict[str, float]:
        # Here, because the package takes 100 MB, and nothing else here needs it.
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        told = {picture: [caption] for picture, (caption, _) in enumerate(scores)}
        true = {picture: captions for picture, (_, captions) in enumerate(scores)}
        cider, _ = Cider().compute_score(true, told)
        bleu, _ = Bleu(4).compute_score(true, told, verbose=0)
        rouge, _ = Rouge().compute_score(true, told)
        return {
            "cider_d": float(cider),
            **{f"bleu_{n}": float(value) for n, value in enumerate(bleu, start=1)},
            "rouge_l": float(rouge),
        }


class RougeL(Metric):
    """{"rouge_l": 0 to 1}: how much of the words of the true texts comes in the same order in a text, and the other way
    round; mean over texts, as in `CaptionScores`. Predictions: texts. References: per text the list of true ones."""

    def _score_batch(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        from pycocoevalcap.rouge.rouge import Rouge  # here for the same reason

        scores = []
        for prediction, truths in zip(predictions, references, strict=True):
            if isinstance(truths, str) or not truths:
                raise ValueError(f"A reference must be a list of texts, one or more, got {truths!r}.")
            told, *true = (" ".join(caption_tokens(text)) for text in (prediction, *truths))
            scores.append(float(Rouge().calc_score([told], true)))
        return scores

    def _reduce(self, scores: list[float]) -> dict[str, float]:
        return {"rouge_l": sum(scores) / len(scores)}
