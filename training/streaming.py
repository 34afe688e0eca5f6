"""Training on a stream: batches in place of a data set's, where each process is in it in every checkpoint."""

import json
import logging
from pathlib import Path

from transformers import TrainingArguments

from training.checkpoints import ResumingTrainerMixin
from training.data.skipped_rows import SkippedRows
from training.data.stream_loader import StreamLoader
from training.data.streams import RowStream

logger = logging.getLogger(__name__)


def refuse_endless(args: TrainingArguments) -> None:
    """Raises a `ValueError` if a run on a stream does not say how many steps it takes."""
    if args.max_steps < 1:
        raise ValueError("A stream has no end: say by max_steps how many steps to train.")


def skipped_rows(args: TrainingArguments) -> SkippedRows:
    """Where a run takes note of the rows of its stream that it leaves out or cuts."""
    return SkippedRows(Path(args.output_dir, "skipped_rows.jsonl"))


class StreamingTrainerMixin(ResumingTrainerMixin):
    """Mixed into a `Trainer`: its `train_dataset` may be a `RowStream`, of which each process reads its own rows. It
    goes on exactly with as many processes and workers as before."""

    stream_loader: StreamLoader | None = None
    _stream_state: dict | None = None

    @property
    def is_streaming(self) -> bool:
        return isinstance(self.train_dataset, RowStream)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        if self.is_streaming:
            self.args.ignore_data_skip = True  # the stream itself begins where it was
        if self.is_streaming and resume_from_checkpoint is not None:
            file = Path(resume_from_checkpoint, self._stream_file())
            if file.is_file():  # else the run is refused, or whoever named the checkpoint is warned
                self._stream_state = json.loads(file.read_text(encoding="utf-8"))
        output = super().train(resume_from_checkpoint, **kwargs)
        if self.is_streaming and self.args.should_log:
            for (part, reason), number in self.train_dataset.skipped.counts().items():
                logger.warning("%s: %d rows: %s", part, number, reason)
        return output

    def get_train_dataloader(self):
        if not self.is_streaming:
            return super().get_train_dataloader()
        options = {"pin_memory": self.args.dataloader_pin_memory}
        if self.args.dataloader_num_workers:
            options["prefetch_factor"] = self.args.dataloader_prefetch_factor
        self.stream_loader = StreamLoader(
            self.train_dataset,
            self.data_collator,
            self._train_batch_size,
            self.args.process_index,
            self.args.world_size,
            self.args.dataloader_num_workers,
            self._stream_state,
            **options,
        )
        return self.stream_loader

    def log(self, *args, **kwargs) -> None:
        if self.is_streaming:  # where a run goes on, transformers would count from its own beginning
            self.state.epoch = self.state.global_step / self.args.max_steps
        super().log(*args, **kwargs)

    def state_files(self) -> list[str]:
        return [*super().state_files(), *([self._stream_file()] if self.is_streaming else [])]

    def _save_rng_state(self, output_dir: str) -> None:
        if self.is_streaming:
            file = Path(output_dir, self._stream_file())
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(self.stream_loader.state_dict()), encoding="utf-8")
        super()._save_rng_state(output_dir)  # which waits for all processes

    def _stream_file(self) -> str:
        """Each process has its own."""
        return f"stream_{self.args.process_index}.json"
