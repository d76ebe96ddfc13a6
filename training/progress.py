"""How far a training is, on the terminal: a bar, and a line an epoch. Callbacks of training.trainer.Trainer."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from tqdm import tqdm

from training.environment import quiet_ultralytics

quiet_ultralytics()

from ultralytics.utils import RANK  # noqa: E402

if TYPE_CHECKING:
    from training.trainer import Trainer


def start(trainer: Trainer) -> None:
    """Open the bar, on a terminal only."""
    trainer.progress = None
    if RANK in {-1, 0} and trainer.plan.progress and sys.stderr.isatty():
        batches = len(trainer.train_loader)
        trainer.progress = tqdm(total=trainer.epochs * batches, initial=trainer.start_epoch * batches, unit="batch", file=sys.stderr)


def advance(trainer: Trainer) -> None:
    """One batch more."""
    if trainer.progress is not None:
        trainer.progress.update()


def report_epoch(trainer: Trainer) -> None:
    """One line an epoch, with its time: on the terminal only, since files must not differ from run to run."""
    now_s = time.monotonic()
    epoch_s, trainer.epoch_started_s = now_s - trainer.epoch_started_s, now_s
    if RANK not in {-1, 0} or not trainer.plan.progress:
        return
    last = trainer.history[-1]
    losses = " ".join(f"{name.removeprefix('train/')} {value:.3f}" for name, value in last.items() if name.startswith("train/"))
    text = f"epoch {trainer.epoch + 1}/{trainer.epochs}: {losses} | val AP50 {last['val/AP50']:.3f} AP {last['val/AP']:.3f} | {epoch_s:.1f} s"
    if trainer.progress is not None:
        trainer.progress.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)


def end(trainer: Trainer) -> None:
    """Close the bar."""
    if trainer.progress is not None:
        trainer.progress.close()
