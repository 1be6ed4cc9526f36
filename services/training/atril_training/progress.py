"""Training shown on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from atril_training.fitting import EpochRecord

_LOSS_DECAY = 0.95


class ProgressReporter:
    """A bar over all steps with the current loss, and a line with the figures of each epoch."""

    def __init__(self, progress: Progress, task: TaskID, title: str) -> None:
        self._progress = progress
        self._task = task
        self._title = title
        self._epochs = 0
        self._smooth_loss: float | None = None

    def stage_started(self, stage: str, epochs: int) -> None:
        """Begin the bar anew."""
        self._epochs = epochs
        self._smooth_loss = None
        description = f"{self._title}: {stage}" if stage else self._title
        self._progress.reset(self._task, description=description)
        if stage:
            self._progress.console.print(stage, highlight=False)

    def batch_finished(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        """Move the bar; the loss shown is a running mean, since one batch says little."""
        before = loss if self._smooth_loss is None else self._smooth_loss
        self._smooth_loss = _LOSS_DECAY * before + (1 - _LOSS_DECAY) * loss
        self._progress.update(
            self._task,
            total=batches * self._epochs,
            completed=(epoch - 1) * batches + batch,
            loss=f"{self._smooth_loss:.4f}",
        )

    def epoch_finished(self, record: EpochRecord) -> None:
        """Print the figures of the epoch above the bar."""
        figures = "  ".join(f"{name} {value:.4g}" for name, value in record.validation.items())
        self._progress.console.print(
            f"epoch {record.epoch:>3}/{self._epochs}"
            f"  loss {record.train_loss:.4f}  validation: {figures}"
            f"  {record.duration_s:.1f} s",
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def training_progress(title: str, console: Console) -> Iterator[ProgressReporter]:
    """Show progress on a console while the block runs; in a log, the epochs' lines alone."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(title, total=None, loss="-")
        yield ProgressReporter(progress, task, title)
