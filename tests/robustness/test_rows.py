"""Damaged data for every reader: rows that can be trained on, or a refusal with the file's name."""

import io
import itertools
import json
import warnings
from pathlib import Path
from random import Random

import datasets
import pytest
from PIL import Image

from processing import SetokimProcessor
from tests.any_json import ODD, damaged
from tests.reader_testing import FORMATS, ROWS, SEVERAL, write_pictures
from tests.robustness.campaign import campaign
from tests.row_testing import are_trainable
from tests.setokim_testing import tiny_processor
from training.data import load_hub_dataset, load_image_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def processor() -> SetokimProcessor:
    return tiny_processor()


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the rows that are skipped
        datasets.disable_progress_bars()
        yield


def test_json_files(tmp_path, processor):
    root = write_pictures(tmp_path)
    with campaign("rows of JSON files", least=3200) as cases:
        for name, (load, good, files) in FORMATS.items():
            random = Random(name)
            for i in range(400):
                content = damaged(good, random)
                on_error = random.choice(("raise", "skip"))
                cases.run(
                    f"{name} {i}, {on_error}: {content!r:.500}",
                    lambda load=load, content=content, on_error=on_error: load(root, content, on_error),
                    check=lambda rows: are_trainable(rows, processor),
                    names=files,
                )


def test_broken_json(tmp_path, processor):
    """Bytes that are cut off, changed or repeated."""
    root = write_pictures(tmp_path)
    with campaign("bytes of JSON files", least=400) as cases:
        for name, (load, good, files) in FORMATS.items():
            random, content = Random(name), json.dumps(good[0] if name in SEVERAL else good).encode()
            for i in range(50):
                broken = damaged_bytes(content, random)
                cases.run(
                    f"{name} {i}: {broken!r:.300}",
                    lambda load=load, broken=broken: load(root, broken, "raise"),
                    check=lambda rows: are_trainable(rows, processor),
                    names=files,
                )


def test_folders_of_pictures(tmp_path, processor):
    pictures = picture_files()
    with campaign("folders of pictures", least=200) as cases:
        for i in range(200):
            random, folder = Random(f"folder {i}"), tmp_path / str(i)
            folder.mkdir()
            for k in range(random.randrange(4)):
                content = random.choice(pictures)
                content = damaged_bytes(content, random) if random.random() < 0.5 else content
                name = random.choice(("a.png", "b.jpg", "deep/c.webp", "d.txt", "e.PNG", b"\xff.png"))
                path = folder / (name.decode(errors="surrogateescape") if isinstance(name, bytes) else f"{k}{name}")
                path = folder / "deep" / path.name if "deep" in str(name) else path
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            if random.random() < 0.2:
                (folder / "link.png").symlink_to(random.choice(("/etc/hostname", "a.png", "nowhere", ".")))
            on_error = random.choice(("raise", "skip"))
            cases.run(
                f"folder {i}, {on_error}: {sorted(path.name for path in folder.rglob('*'))}",
                lambda folder=folder, on_error=on_error: load_image_folder(folder, on_error),
                check=lambda rows: are_trainable(rows, processor),
                names=[str(folder)],
            )


def test_data_sets_on_disk(tmp_path, processor):
    with campaign("data sets of the Hub, on disk", least=300) as cases:
        for i, (kind, write) in enumerate(itertools.product(range(100), (json_lines, table, picture_classes))):
            random, root = Random(f"hub {i}"), tmp_path / str(i)
            write(write_pictures(root) / "data", random)
            on_error = random.choice(("raise", "skip"))

            def load(root=root, on_error=on_error):
                options = {"on_error": on_error, "cache_dir": str(root / "cache")}
                return list(load_hub_dataset(str(root / "data"), "train", **options))

            cases.run(
                f"{write.__name__} {kind}, {on_error}",
                load,
                check=lambda rows: are_trainable(rows, processor),
                names=[str(root / "data")],
            )


def json_lines(folder: Path, random: Random) -> None:
    """Damaged rows of any kind, which make columns of any kind."""
    rows = damaged(random.choice(list(ROWS.values())), random)
    for picture in sorted((folder / "images").iterdir()):  # for `datasets`, a folder with pictures is one of pictures
        picture.rename(folder / f"{picture.name}_")
    text = json.dumps(rows).replace('.png"', '.png_"').replace('.jpg"', '.jpg_"')
    lines = [json.dumps(row) for row in json.loads(text)] if isinstance(rows, list) else [text]
    (folder / "train.jsonl").write_text("\n".join(lines))


def table(folder: Path, random: Random) -> None:
    """Parquet with pictures, captions and classes, some of them missing or bad."""
    cells = [{"bytes": content, "path": None} for content in picture_files()]
    cells += [
        None,
        {"bytes": None, "path": None},
        {"bytes": b"", "path": "a.png"},
        {"bytes": b"no picture", "path": None},
    ]
    cells += [{"bytes": None, "path": path} for path in ("red.png", "../outside.png", "/etc/hostname", "missing.png")]
    texts = [value for value in ODD if isinstance(value, str) and "\ud800" not in value] + [None]
    columns = {
        "image": lambda: random.choice(cells[:4] * 3 + cells),
        "caption": lambda: random.choice(["A dog."] * 10 + texts),
        "label": lambda: random.choice([0, 1, -1, None]),
        "concepts": lambda: random.choice([["dog"], [], None, [None], ["dog", ""]]),
        "images": lambda: random.choices(cells, k=random.randrange(3)),
        "messages": lambda: [
            {"role": random.choice(("user", "assistant", *texts[:3])), "content": random.choice(texts)}
            for _ in range(random.randrange(3))
        ],
    }
    names = random.sample(list(columns), random.randrange(1, 5))
    rows = random.randrange(4)
    content = datasets.Dataset.from_dict({name: [columns[name]() for _ in range(rows)] for name in names})
    path = folder / "train.parquet"
    for picture in sorted((folder / "images").iterdir()):
        picture.unlink()
    if random.random() < 0.5 and "label" in names and rows:
        content = content.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
        content = content.rename_column("label", "labels")
    content.to_parquet(path)
    if random.random() < 0.1:
        path.write_bytes(damaged_bytes(path.read_bytes(), random))


def picture_classes(folder: Path, random: Random) -> None:
    """Folders named after what their pictures show."""
    for picture in sorted((folder / "images").iterdir()):
        if random.random() < 0.5:
            (folder / random.choice(("cat", "dog"))).mkdir(exist_ok=True)
            content = picture.read_bytes()
            content = damaged_bytes(content, random) if random.random() < 0.2 else content
            (random.choice([path for path in folder.iterdir() if path.name != "images"]) / picture.name).write_bytes(
                content
            )
        picture.unlink()


def picture_files() -> list[bytes]:
    files = []
    for mode, format in (("RGB", "PNG"), ("L", "PNG"), ("RGB", "JPEG"), ("RGBA", "WEBP"), ("P", "GIF"), ("1", "TIFF")):
        file = io.BytesIO()
        Image.effect_noise((20, 10), 90).convert(mode).save(file, format)
        files.append(file.getvalue())
    return files


def damaged_bytes(content: bytes, random: Random) -> bytes:
    content = bytearray(content)
    start = random.randrange(len(content))
    change = random.randrange(4)
    if change == 0:
        del content[start:]
    elif change == 1:
        del content[start : start + random.randrange(1, 9)]
    elif change == 2:
        content[start:start] = content[start : start + random.randrange(1, 99)]
    else:
        for _ in range(random.randrange(1, 5)):
            content[random.randrange(len(content))] = random.randrange(256)
    return bytes(content)
