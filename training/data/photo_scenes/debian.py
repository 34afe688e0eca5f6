"""Files of Debian packages, without installing them."""

import shutil
import subprocess
from pathlib import Path


def unpacked(package: str, given: Path | None, folder: Path) -> Path:
    """The folder in which the files of a package lie.

    Args:
        package: its name.
        given: its .deb file, or a folder in which it is unpacked already; None: it is downloaded.
        folder: an empty folder for what is downloaded and unpacked.

    Raises:
        FileNotFoundError: `given` does not exist.
        ValueError: `given` is another package, or damaged.
        RuntimeError: a Debian tool is missing, or the download failed.
    """
    if given is None:
        given = _download(package, folder)
    elif given.is_dir():
        return given
    elif not given.is_file():
        raise FileNotFoundError(f"There is no file {given}: give the .deb file of {package}, or leave it out.")
    tool = _tool("dpkg-deb", package, "a folder in which it is unpacked")
    asked = _run([tool, "--field", given, "Package"])
    if asked.returncode:
        raise ValueError(f"{given} is no whole Debian package ({_reason(asked)}): download {package} again.")
    if (name := asked.stdout.strip()) != package:
        raise ValueError(f"{given} is the package {name!r}: give the .deb file of {package}.")
    target = folder / "files"
    done = _run([tool, "--extract", given, target])
    if done.returncode:
        raise ValueError(f"{given} cannot be unpacked ({_reason(done)}): download {package} again.")
    return target


def _download(package: str, folder: Path) -> Path:
    tool = _tool("apt-get", package, "its .deb file")
    done = _run([tool, "download", package], cwd=folder)
    files = sorted(folder.glob(f"{package}_*.deb"))
    if done.returncode or not files:
        raise RuntimeError(
            f"apt-get cannot download {package} ({_reason(done)}): run `apt-get update`, look to the network, or "
            f"download {package}_*.deb from a Debian mirror and give that file."
        )
    return files[-1]


def _tool(name: str, package: str, instead: str) -> str:
    if (path := shutil.which(name)) is None:
        raise RuntimeError(
            f"There is no {name} here: download {package}_*.deb from a Debian mirror where there is one, "
            f"and give {instead}."
        )
    return path


def _run(command: list, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)


def _reason(done: subprocess.CompletedProcess) -> str:
    return done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
