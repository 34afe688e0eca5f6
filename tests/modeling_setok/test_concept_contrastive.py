"""Concept-level contrastive loss against loops written from Eqs. 5-7."""

import math

import pytest
import torch

from modeling_setok.concept_contrastive import concept_contrastive_loss, mean_token, unit

FORMS = ["log_of_sum", "sum_of_logs"]


def slow_loss(images, texts, labels, inverse_temperature, form) -> float:
    """Image by image, concept by concept."""
    batch, count = labels.shape
    drawn = [[int(c) for c in row if c >= 0] for row in labels]

    def p(i, j, k):  # similarity of image i and the k-th text of image j
        return math.exp(inverse_temperature * float(images[i].double() @ texts[j, k].double()))

    terms = []
    for i in range(batch):
        own = [k for k in range(count) if labels[i, k] >= 0]
        if not own:
            continue
        positives = [p(i, i, k) for k in own]
        other_texts = sum(
            p(i, j, k)
            for j in range(batch) for k in range(count)
            if labels[j, k] >= 0 and int(labels[j, k]) not in drawn[i]
        )  # fmt: skip
        other_images = [
            sum(p(j, i, k) for j in range(batch) if drawn[j] and int(labels[i, k]) not in drawn[j]) for k in own
        ]
        if form == "log_of_sum":
            total = sum(positives)
            terms.append(-math.log(total / (total + other_texts)) - math.log(total / (total + sum(other_images))))
        else:
            to_text = [-math.log(q / (q + other_texts)) for q in positives]
            to_image = [-math.log(q / (q + n)) for q, n in zip(positives, other_images, strict=True)]
            terms.append(sum(to_text) / len(own) + sum(to_image) / len(own))
    return sum(terms) / len(terms) if terms else 0.0


def bank(labels: torch.Tensor, dim: int = 8) -> torch.Tensor:
    """One text feature per name: equal labels have equal texts."""
    return unit(torch.randn(20, dim))[labels.clamp(min=0)]


LABELS = {
    "all different": [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]],
    "shared names": [[0, 1, 2], [2, 3, 0], [4, 4, 5], [5, 1, 0]],
    "missing concepts": [[0, -1, 2], [3, 4, -1], [-1, -1, 5], [0, 6, 7]],
    "image with none": [[0, 1, 2], [-1, -1, -1], [2, 3, -1], [4, -1, -1]],
    "one name everywhere": [[0, -1, -1], [0, -1, -1], [0, 0, 0], [-1, -1, -1]],
    "none at all": [[-1, -1, -1]] * 4,
    "single image": [[0, 1, 2]],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("inverse_temperature", [1 / 0.07, 100.0])
def test_equals_the_loop(form, labels, inverse_temperature):
    labels = torch.tensor(labels)
    images = unit(torch.randn(len(labels), 8)).requires_grad_()
    texts = bank(labels).requires_grad_()
    loss = concept_contrastive_loss(images, texts, labels, torch.tensor(inverse_temperature), form)
    expected = slow_loss(images.detach(), texts.detach(), labels, inverse_temperature, form)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    gradients = torch.autograd.grad(loss, [images, texts])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[1][labels < 0] == 0).all()


def test_as_printed_where_no_name_is_shared():
    """Eq. 5 verbatim: all K texts of all B images in the denominator."""
    images, texts = unit(torch.randn(4, 8)), unit(torch.randn(4, 3, 8))
    labels = torch.arange(12).view(4, 3)
    p = torch.einsum("id,jkd->ijk", images, texts).mul(10).exp()
    eq5 = -(p.diagonal().sum(0) / p.sum((1, 2))).log().mean()
    eq6 = -(p.diagonal().sum(0) / p.sum((0, 2))).log().mean()  # over images, the direction that the text describes
    loss = concept_contrastive_loss(images, texts, labels, torch.tensor(10.0))
    torch.testing.assert_close(loss, eq5 + eq6)


@pytest.mark.parametrize("form", FORMS)
def test_padding_content_and_order_do_not_matter(form):
    labels = torch.tensor([[0, 3, -1], [2, -1, -1], [5, 0, 1]])
    images, texts = unit(torch.randn(3, 8)), bank(labels)
    loss = concept_contrastive_loss(images, texts, labels, torch.tensor(20.0), form)
    other = torch.where(labels[..., None] < 0, unit(torch.randn(8)), texts)
    torch.testing.assert_close(concept_contrastive_loss(images, other, labels, torch.tensor(20.0), form), loss)
    turned = concept_contrastive_loss(images.flip(0), texts.flip(0, 1), labels.flip(0, 1), torch.tensor(20.0), form)
    torch.testing.assert_close(turned, loss)


def test_only_sum_of_logs_asks_for_every_concept():
    """An image aligned with one of its two concepts satisfies the printed form."""
    texts = torch.eye(8)[:4].view(2, 2, 8)
    images = torch.stack([texts[0, 0], texts[1, 0]])
    labels = torch.arange(4).view(2, 2)
    printed, every = (concept_contrastive_loss(images, texts, labels, torch.tensor(100.0), form) for form in FORMS)
    assert printed < 1e-6 < 0.3 < every


def test_computed_in_float32_under_autocast():
    labels = torch.tensor(LABELS["shared names"])
    images, texts = unit(torch.randn(4, 64)), bank(labels, 64)
    expected = concept_contrastive_loss(images, texts, labels, torch.tensor(100.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = concept_contrastive_loss(images, texts, labels, torch.tensor(100.0))
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)


def test_errors():
    images, texts, labels = torch.randn(2, 8), torch.randn(2, 3, 8), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="form must be"):
        concept_contrastive_loss(images, texts, labels, torch.tensor(1.0), "clip")
    with pytest.raises(ValueError, match="must be the first two dimensions"):
        concept_contrastive_loss(images, texts, labels[:, :2], torch.tensor(1.0))
    with pytest.raises(ValueError, match="for 3 images"):
        concept_contrastive_loss(torch.randn(3, 8), texts, labels, torch.tensor(1.0))


def test_mean_token_leaves_padding_out():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], [[5.0, 5.0], [0.0, 0.0], [0.0, 0.0]]])
    token_mask = torch.tensor([[True, True, False], [True, False, False]])
    assert mean_token(tokens, token_mask).tolist() == [[2.0, 3.0], [5.0, 5.0]]
