"""Run by several processes: reads a part of a recipe as a stream with two workers each, and writes the captions of each
batch down. `python -m torch.distributed.run --nproc_per_node=2 tests/read_stream.py PART FOLDER FIRST BATCHES`."""

import json
import os
import sys
from itertools import islice
from pathlib import Path

from training.data.sources import load_stream
from training.data.stream_loader import StreamLoader

BATCH = 3


def captions(rows: list[dict]) -> dict:
    return {"captions": [row["messages"][-1]["content"][0]["text"] for row in rows]}


def main(part: str, folder: str, first: str, batches: str) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    state_file = Path(folder, f"state_{rank}.json")
    state = json.loads(state_file.read_text()) if int(first) else None
    stream = load_stream([json.loads(part)], seed=1, shuffle_buffer=4)
    loader = StreamLoader(stream, captions, BATCH, rank, world, num_workers=2, state=state)
    read = [batch["captions"] for batch in islice(loader, int(batches))]
    Path(folder, f"read_{rank}_{first}.json").write_text(json.dumps(read))
    state_file.write_text(json.dumps(loader.state_dict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
