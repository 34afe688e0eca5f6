"""Fetches the common tests of the installed version of transformers into build/conformance, for `make conformance`.

    python tests/conformance/fetch.py [CHECKOUT]

The source distribution has those of models, configurations and processors. Those of generation, export and pipelines
are only in the library's repository: they are taken from CHECKOUT, a folder with the repository at that version, else
by git from the Web. Where there is neither, the command says so, and stand-ins without tests take their places.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

VERSION = version("transformers")
FOLDER = Path(__file__).parents[2] / "build" / "conformance" / f"transformers-{VERSION}"
REPOSITORY = "https://github.com/huggingface/transformers"
# What only the repository has, and the common tests read
PARTS = (
    "tests/__init__.py",
    "tests/causal_lm_tester.py",
    "tests/exporters",
    "tests/fixtures/tests_samples/COCO",
    "tests/generation",
    "tests/pipelines",
    "tests/utils",
    "utils/fetch_hub_objects_for_ci.py",
    "utils/test_module",
)
STAND_INS = {
    "tests/__init__.py": "",
    "tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "tests/utils/test_configuration_utils.py": 'config_common_kwargs = {"return_dict": False}\n',
    "tests/utils/tiny_model_summary.json": "{}\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}  # fmt: skip


def fetch_sdist() -> None:
    """Unpacks the source distribution."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "transformers", "--dest", folder]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, f"transformers=={VERSION}"], check=True)
        with tarfile.open(next(Path(folder).iterdir())) as archive:
            archive.extractall(FOLDER.parent, filter="data")


def clone(folder: str) -> bool:
    """Puts the parts of the library's repository into a folder; False where it cannot be reached."""
    options = ["--quiet", "--depth=1", "--filter=blob:none", "--sparse", "--branch", f"v{VERSION}"]
    try:
        subprocess.run(["git", "clone", *options, REPOSITORY, folder], check=True, capture_output=True)
        parts = [f"/{part}" for part in PARTS]
        subprocess.run(["git", "-C", folder, "sparse-checkout", "set", "--no-cone", *parts], check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def take(checkout: str) -> None:
    """Copies the parts of a checkout to what the source distribution has."""
    for part in PARTS:
        source, target = Path(checkout) / part, FOLDER / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)


def main(checkout: str | None = None) -> None:
    if not FOLDER.is_dir():
        fetch_sdist()
    if checkout is not None:
        take(checkout)
    elif not (FOLDER / "tests" / "pipelines").exists():
        with tempfile.TemporaryDirectory() as folder:
            if clone(folder):
                return take(folder)
        print(
            f"{REPOSITORY} cannot be reached: GenerationTesterMixin and PipelineTesterMixin, which only it has, are "
            f"not run. To run them give the folder of a checkout of v{VERSION}: make conformance TRANSFORMERS=FOLDER",
            file=sys.stderr,
        )
        for name, content in STAND_INS.items():
            (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
            (FOLDER / name).write_text(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
