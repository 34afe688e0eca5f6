"""Where the trainer of stage 0 shows its losses and pictures."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.script_testing import finish, launch
from tests.training.test_train_setok import tiny_recipe
from training.train_setok import main

OPTIONS = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "eval_examples": 2, "sample_images": 2}


def test_losses_metrics_and_pictures_go_to_tensorboard(tmp_path):
    main([str(tiny_recipe(tmp_path, report_to="tensorboard", **OPTIONS))])
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert {"train/loss", "train/reconstruction_loss", "eval/psnr"} <= set(events.Tags()["scalars"])
    pictures = events.Images("samples")
    assert [picture.step for picture in pictures] == [1, 2, 2]  # the last of the final model, after training
    shown = Image.open(io.BytesIO(pictures[-1].encoded_image_string))
    np.testing.assert_array_equal(np.array(shown), np.array(Image.open(tmp_path / "run/samples/step-000002.png")))


@pytest.mark.slow
def test_and_to_trackio(tmp_path, monkeypatch):
    """In a process of its own, because trackio asks once where to write. One run holds it all."""
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    finish(launch("train_setok.py", tiny_recipe(tmp_path, report_to=["trackio"], **OPTIONS)))
    written = b"".join(path.read_bytes() for path in (tmp_path / "trackio").glob("*.db*"))
    assert all(name in written for name in (b"train/reconstruction_loss", b"eval/psnr", b"samples"))
    pictures = list((tmp_path / "trackio" / "media" / "huggingface" / "run").rglob("*.png"))
    assert len(pictures) == 3
    sizes = {Image.open(path).size for path in pictures}
    assert sizes == {Image.open(tmp_path / "run/samples/step-000002.png").size}


def test_the_perceptual_loss_looks_at_pixels_in_its_range(tmp_path):
    """Whatever normalisation SeTok's encoder asks for, and at some pictures of the batch where the recipe says so."""
    options = {"max_steps": 1, "perceptual_weight": 1.0, "perceptual_pictures": 2, "per_device_train_batch_size": 4}
    trainer = main([str(tiny_recipe(tmp_path, **options))])
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    trainer.processing_class.image_mean, trainer.processing_class.image_std = mean, std
    seen = []
    trainer.perceptual_loss = lambda reconstruction, target: seen.append(target) or reconstruction.mean() * 0
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    pixels = torch.rand(batch["target_pixel_values"].shape)  # as a picture has them
    normalised = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    trainer.compute_loss(trainer.model, batch | {"target_pixel_values": normalised})
    torch.testing.assert_close(seen[0], 2 * pixels[:2] - 1)
