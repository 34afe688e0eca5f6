"""What a stream costs: memory over a long run of rows, and the time to the first batch by the size of the data.

python -m training.evaluation.cost_streams [--rows 1000000] [--workers 0]

Writes pictures of 16 pixels with captions as Parquet and as tar files of 1000 and of `--rows` rows into a folder that
is deleted again, and reads them as training does, by the same readers and loader. Nothing is asserted; what counts are
the ratios.
"""

import argparse
import io
import resource
import tarfile
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from training.data.sources import load_stream
from training.data.stream_loader import StreamLoader

ROWS_PER_FILE = 10_000
BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the large data set")
    parser.add_argument("--workers", type=int, default=0, help="of the loader; memory is that of the process alone")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    print("| files | rows | first batch, s | rows/s | memory after 1/10, 2/10, ... of the rows, MiB |")
    print("|---|---|---|---|---|", flush=True)
    for write in (write_parquet, write_tar):
        for rows in (1000, arguments.rows):
            with tempfile.TemporaryDirectory() as folder:
                part = write(Path(folder), rows)
                print(f"| {part['dataset']} | {rows} | {_measure(part, rows, arguments.workers)} |", flush=True)


def _measure(part: dict, rows: int, workers: int) -> str:
    start = time.perf_counter()
    loader = StreamLoader(load_stream([part], seed=0, shuffle_buffer=256), len, BATCH, num_workers=workers)
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - start
    memory = []
    for _ in range(10):
        for _ in islice(batches, rows // BATCH // 10):
            pass
        memory.append(_memory())
    return f"{first:.2f} | {rows / (time.perf_counter() - start):.0f} | {', '.join(map(str, memory))}"


def _memory() -> int:
    """MiB that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 2**20


def captioned(rows: int) -> Iterator[tuple[bytes, str]]:
    """Pictures and captions that differ."""
    for number in range(rows):
        file = io.BytesIO()
        colour = tuple(number >> shift & 255 for shift in (0, 8, 16))
        Image.fromarray(np.full((16, 16, 3), colour, np.uint8)).save(file, "PNG")
        yield file.getvalue(), f"Picture {number}."


def write_parquet(folder: Path, rows: int) -> dict:
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    pairs = captioned(rows)
    for file in range(-(-rows // ROWS_PER_FILE)):
        chunk = [
            {"image": {"bytes": picture, "path": None}, "caption": text}
            for picture, text in islice(pairs, ROWS_PER_FILE)
        ]
        datasets.Dataset.from_list(chunk, features=features).to_parquet(folder / f"{file:05d}.parquet")
    return {"dataset": "parquet", "data_files": str(folder / "*.parquet")}


def write_tar(folder: Path, rows: int) -> dict:
    pairs = captioned(rows)
    for file in range(-(-rows // ROWS_PER_FILE)):
        with tarfile.open(folder / f"{file:05d}.tar", "w") as tar:
            for number, (picture, text) in enumerate(islice(pairs, ROWS_PER_FILE)):
                for ending, content in (("png", picture), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{file:05d}{number:05d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return {"dataset": "webdataset", "data_files": str(folder / "*.tar"), "columns": {"image": "png", "caption": "txt"}}


if __name__ == "__main__":
    main()
