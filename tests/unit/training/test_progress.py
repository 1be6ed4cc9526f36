"""What a terminal shows of a training."""

import io

from rich.console import Console

from atril_training.progress import training_progress
from atril_training.trainer import EpochRecord


def test_each_epoch_is_a_line_with_its_figures() -> None:
    """Loss and accuracy of both splits, and the time it took."""
    screen = io.StringIO()
    with training_progress("toy", 12, Console(file=screen, width=200)) as reporter:
        reporter.batch_finished(1, 1, 2, 0.5)
        reporter.batch_finished(1, 2, 2, 0.4)
        reporter.epoch_finished(EpochRecord(1, 0.45, 0.8, 0.3, 0.9, 1.25))
    assert screen.getvalue().splitlines()[0] == (
        "epoch   1/12  loss 0.4500  accuracy 0.8000  validation loss 0.3000  accuracy 0.9000  1.2 s"
    )


def test_terminal_shows_a_bar_over_all_steps() -> None:
    """Steps done of all steps, the running mean of the loss and the last accuracy."""
    screen = io.StringIO()
    console = Console(file=screen, width=200, force_terminal=True, color_system=None)
    with training_progress("toy", 12, console) as reporter:
        reporter.batch_finished(1, 1, 2, 1.0)
        reporter.batch_finished(1, 2, 2, 0.0)
        reporter.epoch_finished(EpochRecord(1, 0.45, 0.8, 0.3, 0.9, 1.25))
    assert "toy" in screen.getvalue()
    assert "2/24 loss 0.9500  accuracy 0.9000" in screen.getvalue()
