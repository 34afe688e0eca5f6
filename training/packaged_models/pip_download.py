"""A package's archive, by pip: pip knows the index that this machine uses."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def pip_download(package: str, *options: str, remedy: str) -> Iterator[Path]:
    """The archive of a package, without those that it needs, while the context lasts.

    Args:
        package: as `name==version`.
        options: of `pip download`, which say what to download.
        remedy: what to do where there is no package index.

    Raises:
        ValueError: pip could not download it.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder, *options]
        result = subprocess.run(pip, capture_output=True, text=True)
        if result.returncode:
            raise ValueError(
                f"pip could not download {package}:\n{result.stderr.strip()}\nWhere there is no package index, {remedy}"
            )
        yield next(Path(folder).iterdir())
