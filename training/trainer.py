"""ultralytics' DetectionTrainer, made resumable to the bit and fast on CPUs; what it trains is the same.

Differences from ultralytics, and why:
- every epoch starts from random generators seeded by (seed, epoch, rank), and mosaics draw from the whole split: an epoch depends on the state
  before it and on nothing else, so a killed training goes on as if it had not been;
- after every epoch the whole state is written in full precision (ultralytics keeps a half-precision average and loses generators and gradients);
- on a CPU: all threads (ultralytics takes one less than there are), channels-last weights, and bf16 autocast where plan.precision says so;
- the loss is computed in float32 also under autocast: in bf16 a box at cell 40 can only stand on eighths of a cell;
- validation letterboxes to the input that the deployed model takes, and uses the head that will be deployed; with bf16 all layers but that head
  run in it;
- a loss that is not a number, or a GPU without memory left, stops the training with a message, instead of going on with other settings.

Training on several GPUs goes through ultralytics' own launcher, which imports this class by its name in each process.
"""

from __future__ import annotations

import random
import time
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.core.errors import ParamsError
from pipelines.core.records import read_samples
from training import progress
from training.bf16 import Float32Loss, predict_in_bf16
from training.data import SampleDataset, SplitFiles
from training.models import build_network
from training.plan import Plan
from training.state import TrainState, read_state, write_state

from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator  # isort: skip  # after training.environment
from ultralytics.utils import DEFAULT_CFG, RANK  # isort: skip
from ultralytics.utils.torch_utils import unwrap_model  # isort: skip

CURVES = {"precision": "precision", "recall": "recall", "mAP50": "AP50", "mAP50-95": "AP"}  # ultralytics' names to ours


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """The seed of all random generators in one epoch, 32 bits; `rank` is -1 outside training on several GPUs."""
    return int(np.random.SeedSequence([seed, epoch, rank + 1]).generate_state(1)[0])


class Trainer(DetectionTrainer):  # type: ignore[misc]  # ultralytics has no types
    """See the module. `overrides["data"]` is the path of a Plan."""

    def __init__(self, cfg: Any = DEFAULT_CFG, overrides: dict[str, Any] | None = None, _callbacks: dict[str, Any] | None = None) -> None:
        self.accumulate: int = 1  # ultralytics sets it with the loaders
        super().__init__(cfg, overrides, _callbacks)
        self.set_callback("on_train_start", progress.start)
        self.set_callback("on_train_epoch_start", _begin_epoch)
        self.set_callback("on_train_batch_end", progress.advance)
        self.set_callback("on_fit_epoch_end", progress.report_epoch)
        self.set_callback("on_train_end", progress.end)

    def get_dataset(self) -> dict[str, Any]:
        """The plan's classes; images and labels come from its samples in `build_dataset`."""
        self.plan = Plan.read(Path(self.args.data))
        return {"train": "train", "val": "val", "nc": len(self.plan.classes), "names": dict(enumerate(self.plan.classes)), "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> SampleDataset:  # noqa: ARG002
        """The samples of `mode` (train or val) as a dataset of ultralytics; val is letterboxed to the input of the model that is made."""
        samples = read_samples(Path(self.plan.train_samples if mode == "train" else self.plan.val_samples))
        return SampleDataset(
            SplitFiles(tuple(samples), Path(self.plan.raw), self.plan.classes),
            input_wh=None if mode == "train" else self.plan.input_wh,
            decoding=self.plan.decoding,
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=mode == "train",
            hyp=self.args,
            data=self.data,
        )

    def setup_model(self) -> None:
        """Build the network, on a CPU in the layout that its convolutions are fastest in."""
        self.model = build_network(self.plan.model, self.plan.classes)
        if self.device.type == "cpu":
            torch.set_num_threads(self.plan.threads)
            self.model = self.model.to(memory_format=torch.channels_last)

    def build_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """ultralytics' optimizer; Adam and AdamW in one kernel, which ultralytics only asks for on a GPU."""
        optimizer: torch.optim.Optimizer = super().build_optimizer(*args, **kwargs)
        for group in optimizer.param_groups:
            if "fused" in group and self.device.type == "cpu":
                group["fused"] = True
        return optimizer

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As ultralytics, in the network's layout."""
        batch = super().preprocess_batch(batch)
        if self.device.type == "cpu":
            batch["img"] = batch["img"].to(memory_format=torch.channels_last)
        return batch

    def get_validator(self) -> DetectionValidator:
        """ultralytics' validator; a head that needs no NMS is validated without."""
        arguments = copy(self.args)
        arguments.nms = False if getattr(unwrap_model(self.model).model[-1], "one2one_cv2", None) is not None else None
        return Validator(self.test_loader, save_dir=self.save_dir, args=arguments, _callbacks=self.callbacks)

    def resume_training(self, ckpt: Any) -> None:  # noqa: ARG002
        """The last step of ultralytics' set-up: precision, loss, our own counting of optimizer steps, and the state of an interrupted run."""
        cuda = self.device.type == "cuda"
        self.amp = self.plan.precision in ("bf16", "amp")
        self.scaler = torch.amp.GradScaler("cuda", enabled=cuda and self.plan.precision == "amp")
        network = unwrap_model(self.model)
        network.criterion = Float32Loss(network.init_criterion())
        if self.plan.precision == "bf16" and not cuda:
            self.ema.ema._predict_once = partial(predict_in_bf16, self.ema.ema)  # what the validator calls
        # ultralytics forgets gradients that wait for their step when it resumes. So it is made to ask for a step after every batch, and
        # optimizer_step, whose counters are part of the state, decides.
        self.nominal_accumulate: int = self.accumulate
        self.accumulate = 1
        self.batches, self.last_step = 0, -1
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self.best_epoch = 0
        self.epoch_started_s = time.monotonic()
        state = read_state(Path(self.plan.state), self.plan.fingerprint)
        if state is not None:
            self._restore(state)

    def optimizer_step(self) -> None:
        """Called after every batch: step when `accumulate` batches have gone by, with ultralytics' rise of it during warm-up."""
        batch, accumulate = self.batches, self.nominal_accumulate
        self.batches += 1
        warmup = self._get_warmup_iterations(len(self.train_loader))
        if warmup and batch <= warmup:
            accumulate = max(1, int(np.interp(batch, [0, warmup], [1, accumulate]).round()))
        if batch - self.last_step >= accumulate:
            self.last_step = batch
            super().optimizer_step()

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Keep the epoch's curves in memory; they are part of the state."""
        self.history.append(_curves(metrics))

    def save_model(self) -> bool:
        """Write the whole state; ultralytics calls it after every epoch, with its early stopping decided."""
        average = {key: value.clone() for key, value in self.ema.ema.state_dict().items()}
        if not all(bool(torch.isfinite(value).all()) for value in average.values() if value.is_floating_point()):
            raise _diverged(self.epoch)
        if self.best_fitness == self.fitness:
            self.best, self.best_epoch = average, self.epoch + 1
        network = unwrap_model(self.model)
        state = TrainState(
            fingerprint=self.plan.fingerprint,
            epoch=self.epoch + 1,
            finished=bool(self.stop),
            batches=self.batches,
            last_step=self.last_step,
            updates=self.ema.updates,
            best_epoch=self.best_epoch,
            best_fitness=float(self.best_fitness),
            stopper={"best_fitness": float(self.stopper.best_fitness), "best_epoch": int(self.stopper.best_epoch)},
            history=self.history,
            model=network.state_dict(),
            ema=average,
            best=self.best,
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            gradients={name: value.grad for name, value in network.named_parameters() if value.grad is not None},
        )
        write_state(Path(self.plan.state), state)
        return True

    def final_eval(self) -> None:
        """Nothing: the predict stage and evaluate measure the best epoch's model."""

    def _restore(self, state: TrainState) -> None:
        network = unwrap_model(self.model)
        network.load_state_dict(state.model)
        self.ema.ema.load_state_dict(state.ema)
        self.ema.updates = state.updates
        self.optimizer.load_state_dict(state.optimizer)
        self.scaler.load_state_dict(state.scaler)
        self.best, self.best_epoch, self.best_fitness = state.best, state.best_epoch, state.best_fitness
        self.stopper.best_fitness, self.stopper.best_epoch = state.stopper["best_fitness"], int(state.stopper["best_epoch"])
        self.stopper.possible_stop = state.epoch - self.stopper.best_epoch >= self.stopper.patience - 1
        self.batches, self.last_step, self.history = state.batches, state.last_step, state.history
        self.start_epoch = state.epoch
        if hasattr(network.criterion, "updates"):  # the two-headed loss shifts its weight from one head to the other, epoch by epoch
            network.criterion.criterion.updates = state.epoch - 1
            network.criterion.update()
        self.pending_gradients = state.gradients

    def _handle_nan_recovery(self, epoch: int) -> bool:
        if not (self.loss.isfinite() and np.isfinite(self.fitness if self.fitness is not None else 0.0)):
            raise _diverged(epoch)
        return False


class Validator(DetectionValidator):  # type: ignore[misc]
    """ultralytics' validator in float32, in the layout that the CPU is fastest in."""

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As ultralytics, in the network's layout."""
        batch = super().preprocess(batch)
        if self.device.type == "cpu":
            batch["img"] = batch["img"].to(memory_format=torch.channels_last)
        return batch


def _begin_epoch(trainer: Trainer) -> None:
    """Seed everything from the epoch, start the loader anew, and put back gradients that an interrupted run had gathered."""
    seed = epoch_seed(trainer.args.seed, trainer.epoch, RANK)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 ultralytics' transforms draw from the global generators
    torch.manual_seed(seed)
    trainer.train_loader.generator.manual_seed(seed)
    trainer.train_loader.reset()
    trainer._oom_retries = 3  # ultralytics would halve the batch and say so in a log
    pending = trainer.__dict__.pop("pending_gradients", {})
    for name, value in unwrap_model(trainer.model).named_parameters():
        if name in pending:
            value.grad = pending[name].to(value.device)
    if trainer.progress is not None:
        trainer.progress.set_description(f"epoch {trainer.epoch + 1}/{trainer.epochs}", refresh=False)


def _curves(metrics: dict[str, float]) -> dict[str, float]:
    """ultralytics' metrics of an epoch under our names: train/*, val/*, and lr of the first parameter group."""
    curves: dict[str, float] = {}
    for name, value in metrics.items():
        folder, _, rest = name.partition("/")
        if folder == "metrics":
            curves[f"val/{CURVES[rest.removesuffix('(B)')]}"] = float(value)
        elif name == "lr/pg0":
            curves["lr"] = float(value)
        elif folder in ("train", "val"):
            curves[name] = float(value)
    return curves


def _diverged(epoch: int) -> ParamsError:
    return ParamsError(f"training diverged: its loss or weights are not finite in epoch {epoch + 1}: lower train.lr0, or set train.precision to f32")
