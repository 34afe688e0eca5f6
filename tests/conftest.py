"""Every test runs offline, on one thread, from the same seed, and leaves nothing outside its temporary folders."""

import os
import tempfile

_caches = tempfile.TemporaryDirectory(prefix="setok-tests-")  # deleted when the interpreter exits

# Before the libraries are imported: they read these once. Subprocesses inherit them.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=_caches.name)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tensors of the tests are too small to share

import pytest  # noqa: E402
from transformers import set_seed  # noqa: E402


@pytest.fixture(autouse=True)
def seed() -> int:
    """Python's, NumPy's and PyTorch's generators start from this seed in every test."""
    set_seed(0)
    return 0
