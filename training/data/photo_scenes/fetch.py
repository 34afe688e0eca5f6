"""Makes the folder from which PhotoScenes are drawn: python -m training.data.photo_scenes.fetch

The cut-outs are from Debian's tuxpaint-stamps-default (GPL-2), the grounds from Debian's opencv-doc (Apache-2.0 and
BSD) and from scikit-image's wheel. All stays on your machine: this project holds none of it, and neither may what you
publish, but under their licences.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from .cutouts import CutOut, find_cutouts
from .debian import unpacked
from .folder import FOLDER, INDEX
from .grounds import find_grounds

STAMPS, EXAMPLES = "tuxpaint-stamps-default", "opencv-doc"
INSTALLED = Path("/usr/share/tuxpaint")


def fetch(output: str | Path = FOLDER, package: str | Path | None = None, grounds: str | Path | None = None) -> Path:
    """Writes `index.json`, `cutouts/` and `grounds/`: the same packages give the same bytes.

    Args:
        output: the folder to write; what an earlier call wrote there is replaced.
        package: the .deb file of tuxpaint-stamps-default, or a folder that holds it unpacked, such as an installed
            `/usr/share/tuxpaint`. Default: that, where it is installed; else it is downloaded.
        grounds: the .deb file of opencv-doc, or a folder that holds it unpacked. Default: it is downloaded.

    Raises:
        ValueError: `output` holds something else; a package is another one, damaged or not whole.
        FileNotFoundError, RuntimeError: a package is not there and cannot be fetched.
    """
    output = Path(output)
    if output.exists() and not (output / INDEX).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} holds something else: give a new or an empty folder.")
    if package is None and (INSTALLED / "stamps").is_dir():
        package = INSTALLED
    with tempfile.TemporaryDirectory() as temporary:
        stamps = _below(_unpacked(STAMPS, package, Path(temporary)), "usr/share/tuxpaint/stamps", STAMPS)
        examples = _below(_unpacked(EXAMPLES, grounds, Path(temporary)), f"usr/share/doc/{EXAMPLES}/examples", EXAMPLES)
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent) as beside:  # whole or not at all
            whole = Path(beside) / "whole"
            _write(whole, stamps, examples)
            if output.exists():
                shutil.rmtree(output)
            whole.rename(output)
    return output


def _unpacked(package: str, given: str | Path | None, temporary: Path) -> Path:
    folder = temporary / package
    folder.mkdir()
    return unpacked(package, None if given is None else Path(given), folder)


def _below(root: Path, path: str, package: str) -> Path:
    """The folder `path` of a package, given its root or any folder on the way."""
    parts = Path(path).parts
    for start in range(len(parts) + 1):
        folder = root.joinpath(*parts[start:])
        if folder.is_dir() and folder.name == parts[-1]:
            return folder
    raise ValueError(f"{root} holds no {path}: give the .deb file of {package}, or a folder that holds it unpacked.")


def _write(folder: Path, stamps: Path, examples: Path) -> None:
    (folder / "grounds").mkdir(parents=True)
    index = {"cutouts": [], "grounds": []}
    for cutout in find_cutouts(stamps):
        file = f"cutouts/{cutout.source}"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        cutout.picture.save(folder / file)
        index["cutouts"].append(_entry(cutout, file))
    if not index["cutouts"]:
        raise ValueError(f"{stamps} holds no photographic cut-out: is it the whole package {STAMPS}?")
    for source, split, picture in find_grounds(examples):
        name = Path(source).stem
        picture.save(folder / "grounds" / f"{name}.png")
        index["grounds"].append({"name": name, "split": split, "file": f"grounds/{name}.png", "source": source})
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _entry(cutout: CutOut, file: str) -> dict:
    attributes = ("name", "category", "split", "source", "coverage")
    return {"file": file} | {name: getattr(cutout, name) for name in attributes}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=FOLDER, help="the folder to write")
    parser.add_argument("--package", help=f"{STAMPS}_*.deb or a folder that holds it; default: installed or downloaded")
    parser.add_argument("--grounds", help=f"{EXAMPLES}_*.deb or a folder that holds it; default: downloaded")
    given = parser.parse_args(arguments)
    try:
        folder = fetch(given.output, given.package, given.grounds)
    except (ValueError, OSError, RuntimeError) as error:
        parser.exit(1, f"{error}\n")
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    print(f"{folder}: {len(index['cutouts'])} cut-outs, {len(index['grounds'])} grounds")


if __name__ == "__main__":
    main()
