"""Every test runs offline, on one thread, from the same seed, and leaves nothing outside its temporary folders."""

import os
import tempfile

_caches = tempfile.TemporaryDirectory(prefix="setok-tests-")  # deleted when the interpreter exits

# Before the libraries are imported: they read these once. Subprocesses inherit them.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=_caches.name)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tensors of the tests are too small to share

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from transformers import set_seed  # noqa: E402

from training.hub.frozen_parts import complete  # noqa: E402
from training.hub.model_card import ROOT  # noqa: E402


@pytest.fixture(autouse=True)
def seed() -> int:
    """Python's, NumPy's and PyTorch's generators start from this seed in every test."""
    set_seed(0)
    return 0


@pytest.fixture(scope="session")
def setokim_emoji_tiny(tmp_path_factory) -> Path:
    """Folder of the shipped Setokim, put together with the SeTok that it is shipped without."""
    folder = tmp_path_factory.mktemp("shipped") / "setokim-emoji-tiny"
    complete(ROOT / "model_cards" / folder.name, folder)
    return folder
