"""Where the trainer of stage 0 shows its losses and pictures."""

import io

import numpy as np
import pytest
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
