"""What a terminal shows of a training."""

import io

from rich.console import Console

from atril_training.fitting import EpochRecord
from atril_training.progress import training_progress

RECORD = EpochRecord(1, 0.45, {"loss": 0.3, "accuracy": 0.9}, 1.25)


def test_each_epoch_is_a_line_with_its_figures() -> None:
    """The loss, what was validated, and the time it took."""
    screen = io.StringIO()
    with training_progress("toy", Console(file=screen, width=200)) as reporter:
        reporter.stage_started("", 12)
        reporter.batch_finished(1, 1, 2, 0.5)
        reporter.batch_finished(1, 2, 2, 0.4)
        reporter.epoch_finished(RECORD)
    assert screen.getvalue().splitlines()[0] == (
        "epoch   1/12  loss 0.4500  validation: loss 0.3  accuracy 0.9  1.2 s"
    )


def test_each_stage_is_named() -> None:
    """Where a recipe has several stages, each begins with its name and its own count."""
    screen = io.StringIO()
    with training_progress("toy", Console(file=screen, width=200)) as reporter:
        for stage, epochs in (("pre-training", 3), ("fine-tuning", 5)):
            reporter.stage_started(stage, epochs)
            reporter.epoch_finished(RECORD)
    lines = screen.getvalue().splitlines()
    assert [line[:12] for line in lines if line] == [
        "pre-training", "epoch   1/3 ", "fine-tuning", "epoch   1/5 ",
    ]  # fmt: skip


def test_terminal_shows_a_bar_over_all_steps() -> None:
    """Steps done of all steps, and the running mean of the loss."""
    screen = io.StringIO()
    console = Console(file=screen, width=200, force_terminal=True, color_system=None)
    with training_progress("toy", console) as reporter:
        reporter.stage_started("", 12)
        reporter.batch_finished(1, 1, 2, 1.0)
        reporter.batch_finished(1, 2, 2, 0.0)
        reporter.epoch_finished(RECORD)
    assert "toy" in screen.getvalue()
    assert "2/24 loss 0.9500" in screen.getvalue()
