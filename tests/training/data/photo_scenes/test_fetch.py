"""From packages to the folder: the same bytes each time, and errors that say what to do."""

import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from training.data.photo_scenes import debian, photo_concept_names
from training.data.photo_scenes import fetch as fetch_module
from training.data.photo_scenes.fetch import EXAMPLES, STAMPS, fetch, main

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def build_deb(tree: Path, package: str, folder: Path) -> Path:
    files = folder / package
    shutil.copytree(tree, files)
    (files / "DEBIAN").mkdir()
    control = f"Package: {package}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: x\n"
    (files / "DEBIAN" / "control").write_text(control)
    target = folder / f"{package}_1_all.deb"
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", files, target], check=True, capture_output=True
    )
    return target


@pytest.fixture
def no_installed_stamps(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch_module, "INSTALLED", tmp_path / "not-installed")


def test_index_and_files_belong_together(folder):
    index = json.loads((Path(folder) / "index.json").read_text())
    entries = index["cutouts"] + index["grounds"]
    assert {entry["file"] for entry in entries} | {"index.json"} == contents(folder).keys()
    assert next(entry for entry in index["cutouts"] if entry["name"] == "rose") == {
        "file": "cutouts/plants/rose.png", "name": "rose", "category": "plants", "split": "test",
        "source": "plants/rose.png", "coverage": pytest.approx(0.78, abs=0.02),
    }  # fmt: skip


def test_no_name_and_no_ground_is_in_two_splits(folder):
    index = json.loads((Path(folder) / "index.json").read_text())
    for kind in ("cutouts", "grounds"):
        splits = defaultdict(set)
        for entry in index[kind]:
            splits[entry["name"]].add(entry["split"])
        assert {len(found) for found in splits.values()} == {1}
        assert set.union(*splits.values()) == {"train", "validation", "test"}
    assert photo_concept_names("validation", folder) == ("dog", "owl", "tiger")
    assert len(photo_concept_names(folder=folder)) == 9


def test_same_packages_give_the_same_folder_and_replace_the_old_one(packages, folder, tmp_path):
    stamps, examples = packages
    output = tmp_path / "scenes"
    fetch(output, stamps / "usr/share/tuxpaint", examples)
    (output / "left-over.txt").write_text("of an earlier version")
    fetch(output, stamps / "usr/share/tuxpaint/stamps", examples / "usr/share/doc/opencv-doc/examples")
    assert contents(output) == contents(folder)


@needs_dpkg
def test_packages_of_debian(packages, folder, tmp_path, capsys):
    stamps, examples = (
        build_deb(tree, name, tmp_path) for tree, name in zip(packages, (STAMPS, EXAMPLES), strict=True)
    )
    main(["--output", str(tmp_path / "scenes"), "--package", str(stamps), "--grounds", str(examples)])
    assert contents(tmp_path / "scenes") == contents(folder)
    assert "11 cut-outs, 16 grounds" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"is the package '{EXAMPLES}': give the .deb file of {STAMPS}"):
        fetch(tmp_path / "other", examples, examples)
    stamps.write_bytes(stamps.read_bytes()[:1000])
    with pytest.raises(ValueError, match="download tuxpaint-stamps-default again"):
        fetch(tmp_path / "other", stamps, examples)
    assert not (tmp_path / "other").exists()


def test_wrong_folders_and_files_are_named(packages, tmp_path):
    stamps, examples = packages
    with pytest.raises(ValueError, match=f"holds no usr/share/tuxpaint/stamps: give the .deb file of {STAMPS}"):
        fetch(tmp_path / "scenes", examples, examples)
    with pytest.raises(FileNotFoundError, match="give the .deb file of opencv-doc"):
        fetch(tmp_path / "scenes", stamps, tmp_path / "nothing.deb")
    empty = tmp_path / "tuxpaint" / "stamps"
    empty.mkdir(parents=True)
    with pytest.raises(ValueError, match="no photographic cut-out"):
        fetch(tmp_path / "scenes", empty, examples)
    lacking = tmp_path / "lacking"
    shutil.copytree(examples, lacking)
    next(lacking.rglob("home.jpg")).unlink()
    with pytest.raises(ValueError, match=r"data/home\.jpg of opencv-doc is not whole"):
        fetch(tmp_path / "scenes", stamps, lacking)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("keep me")
    with pytest.raises(ValueError, match="holds something else"):
        fetch(tmp_path / "mine", stamps, examples)
    assert not (tmp_path / "scenes").exists() and (tmp_path / "mine" / "work.txt").exists()


def test_without_the_tools_it_says_what_to_download(no_installed_stamps, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "scenes")])
    assert "no apt-get here: download tuxpaint-stamps-default_*.deb" in capsys.readouterr().err
    (tmp_path / "file.deb").write_bytes(b"")
    with pytest.raises(RuntimeError, match="no dpkg-deb here.* give a folder in which it is unpacked"):
        fetch(tmp_path / "scenes", tmp_path / "file.deb")


def test_a_failed_download_gives_its_reason(no_installed_stamps, monkeypatch, tmp_path):
    script = tmp_path / "apt-get"
    script.write_text("#!/bin/sh\necho 'W: first' >&2\necho 'E: Unable to locate package' >&2\nexit 100\n")
    script.chmod(0o755)
    monkeypatch.setattr(debian.shutil, "which", lambda name: str(script))
    with pytest.raises(RuntimeError, match=r"\(E: Unable to locate package\): run `apt-get update`"):
        fetch(tmp_path / "scenes")
