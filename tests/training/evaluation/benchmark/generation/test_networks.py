import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.multimodal import clip_score
from transformers import AutoTokenizer, CLIPModel, CLIPProcessor, Dinov2Model

from tests.setokim_testing import pictures
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.generation.networks import (
    Clip,
    PictureEncoder,
    frechet_distances,
    perceptual_distances,
)
from training.evaluation.benchmark.generation.pictures import central_square, to_picture, to_tensors


class TensorsClip(CLIPModel):
    """Gives features as earlier transformers did, which torchmetrics expects."""

    def get_image_features(self, *args, **kwargs):
        return super().get_image_features(*args, **kwargs).pooler_output

    def get_text_features(self, *args, **kwargs):
        return super().get_text_features(*args, **kwargs).pooler_output


def test_an_encoder_gives_its_class_token(encoder_folder):
    images = pictures(2)
    encoder = PictureEncoder.from_pretrained(encoder_folder)
    pixel_values = encoder.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(encoder_folder)(pixel_values).pooler_output
    torch.testing.assert_close(encoder.encode(images), expected)
    torch.testing.assert_close(encoder(to_tensors(images)), expected)


def test_the_cosine_of_clip_is_that_of_torchmetrics(clip_folder):
    image, caption = pictures(1)[0], "a red square"
    clip = Clip.from_pretrained(clip_folder)
    cosine = torch.nn.functional.cosine_similarity(clip.encode([image]), clip.encode_texts([caption])).item()
    processor = CLIPProcessor(clip.image_processor, AutoTokenizer.from_pretrained(clip_folder))
    model = TensorsClip.from_pretrained(clip_folder)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    score = clip_score(pixels, caption, model_name_or_path=lambda: (model, processor)).item()
    assert max(100 * cosine, 0) == pytest.approx(score, abs=1e-3)


def test_a_long_text_is_cut_with_a_warning(clip_folder):
    clip = Clip.from_pretrained(clip_folder)
    with pytest.warns(UserWarning, match="1 texts are cut to the 72 tokens"):
        clip.encode_texts(["a red square", "dog " * 80])


def test_what_has_no_texts_is_no_clip(encoder_folder):
    with pytest.raises(ValueError, match="name a CLIP or SigLIP"):
        Clip.from_pretrained(encoder_folder)


def test_a_figure_is_called_after_its_network(encoder_folder, monkeypatch):
    assert frechet_distances(Networks()) == {}
    assert list(frechet_distances(Networks(features=encoder_folder))) == ["fd_encoder"]
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(ValueError, match="pip install torch-fidelity"):
        frechet_distances(Networks(features="inception"))


def test_lpips_is_zero_only_between_equals(lpips_file):
    distances = perceptual_distances(Networks(lpips=lpips_file))
    first, second = to_tensors(pictures(2)).split(1)
    assert distances(first, first).item() == 0
    assert distances(first, second).item() > 0
    assert perceptual_distances(Networks()) is None


def test_the_middle_of_a_picture():
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (10, 0, 30, 20))
    assert central_square(picture, 20).getcolors() == [(400, (0, 0, 255))]
    assert central_square(picture, 8).size == (8, 8)
    assert central_square(picture, 8).getcolors() == [(64, (0, 0, 255))]


def test_pictures_survive_being_tensors():
    images = pictures(3)
    assert [to_picture(pixels).tobytes() for pixels in to_tensors(images)] == [image.tobytes() for image in images]
