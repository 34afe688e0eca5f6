"""The folder into which the demo writes."""

import pytest

from training.demo.output import OutputFolder


def test_nothing_stays_of_an_earlier_run_and_all_of_anybody_else(tmp_path):
    folder = tmp_path / "a" / "out"
    first = OutputFolder(folder)
    for name in ("01_scene.png", "02 mine\n.png"):
        first.file(name).write_text("a picture")
    (folder / "03_scene.png").write_text("the user's own")
    OutputFolder(folder).file("01_scene.png").write_text("a newer one")
    assert {path.name for path in folder.glob("*.png")} == {"01_scene.png", "03_scene.png"}
    assert (folder / "03_scene.png").read_text() == "the user's own"
    OutputFolder(folder)
    assert [path.name for path in folder.glob("*.png")] == ["03_scene.png"]


def test_an_interrupted_run_is_cleared_too(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        OutputFolder(tmp_path).file("01_scene.png").write_text("a picture")
        raise KeyboardInterrupt
    OutputFolder(tmp_path).file("setokim.png")  # listed, never written
    assert not (tmp_path / "01_scene.png").exists()
    OutputFolder(tmp_path)


def test_a_list_that_is_not_the_demos_deletes_nothing_elsewhere(tmp_path):
    (tmp_path / "mine.png").write_text("the user's own")
    for content in ('["../mine.png", ".", "..", 5]', f'["{tmp_path}/mine.png"]', "{", "5", '{"a": 1}'):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / ".written_by_demo.json").write_text(content)
        with pytest.raises(ValueError, match="written_by_demo.json.* is not of the demo: delete it"):
            OutputFolder(tmp_path / "out")
    assert (tmp_path / "mine.png").exists()
