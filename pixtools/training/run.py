"""A training run: its recipe, the files in its folder, and the loop from one checkpoint to the next."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from pixtools.denoising.dncnn import INT8
from pixtools.training.data import Data
from pixtools.training.photos import Batches, BatchShape, Draw
from pixtools.training.plot import draw
from pixtools.training.trainer import Schedule, Trainer

STAGES = ((0.6, 64), (1.0, 112))
"""The end of each stage, as a fraction of the run, and the side of its patches in pixels. Small patches come first,
because a batch of small patches shows many photos. Large patches come last, because the
network then sees all surroundings of most pixels, as in a picture."""

QUANTIZED_FROM = 0.75
"""The fraction of a run after which the training for int8 begins. If the run is extended later, it stays in int8."""

MEASURED_BATCHES = 24  # number of batches for measuring the maxima of activations


@dataclass(frozen=True)
class Recipe:
    """The length, the batches and the learning rate of a run."""

    pixels: float  # of all patches of the run
    batch_pixels: int
    schedule: Schedule
    stages: tuple[tuple[float, int], ...] = STAGES
    quantized_from: float = QUANTIZED_FROM

    @property
    def max_side(self) -> int:
        """The side of the largest patches, in pixels."""
        return max(side for _, side in self.stages)

    def rate(self, pixels: int) -> float:
        """Return the learning rate after `pixels` pixels of the run."""
        return self.schedule.at(pixels / self.pixels)

    def batch_shape(self, side: int) -> BatchShape:
        """Return the shape of a batch whose patches have the side `side`."""
        return BatchShape(max(1, round(self.batch_pixels / side**2)), side)


class Run:
    """The folder of a run. A missing folder is created.

    The folder holds checkpoint.pt, log.jsonl, progress.png and weights.safetensors. Each file is written under a
    temporary name and then renamed, so the file is complete even if the run is killed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str | float]) -> None:
        """`settings` has the value of each option that decides the weights. For a file, the value is the digest.

        A run is continued only with the same settings.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._settings = dict(settings)
        self._checkpoint, self._log = folder / "checkpoint.pt", folder / "log.jsonl"
        self._weights, self._progress = folder / "weights.safetensors", folder / "progress.png"
        self._temporary = folder / "temporary"

    def resume(self, trainer: Trainer) -> bool:
        """Load the checkpoint into `trainer`. Return whether there is a checkpoint.

        Raises ValueError if the checkpoint is damaged, or if its run has other settings.
        """
        if not self._checkpoint.exists():
            return False
        try:
            state = torch.load(self._checkpoint, map_location=trainer.device, weights_only=True)
            kept: dict[str, str | float] = dict(state["settings"])
            if kept == self._settings:
                trainer.load_state_dict(state)
        except Exception as error:  # (PyTorch raises errors of many classes for a damaged file)
            raise ValueError(
                f"{self._checkpoint} is damaged, or belongs to another version ({type(error).__name__}: {error}): "
                "replace it by a copy, or start a new run with another --out"
            ) from error
        different = [name for name in kept | self._settings if kept.get(name) != self._settings.get(name)]
        if different:
            settings = ", ".join(f"{name} {kept.get(name)} (now {self._settings.get(name)})" for name in different)
            raise ValueError(
                f"{self._checkpoint} belongs to a run with other settings: {settings}. To continue that run, use its "
                "settings. To start a new run, use another --out"
            )
        return True

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint and the averaged weights."""
        torch.save(trainer.state_dict() | {"settings": self._settings}, self._temporary)
        self._temporary.replace(self._checkpoint)
        metadata = {INT8: " ".join(map(str, trainer.int8))} if trainer.int8 else None
        save_file(trainer.averaged(), self._temporary, metadata)
        self._temporary.replace(self._weights)

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to the log, and plot the whole log."""
        lines = [*(self._log.read_text().splitlines() if self._log.exists() else ()), json.dumps(line)]
        self._temporary.write_text("\n".join(lines) + "\n")
        self._temporary.replace(self._log)
        draw([json.loads(each) for each in lines], self._temporary)
        self._temporary.replace(self._progress)


def steps(trainer: Trainer, recipe: Recipe, draw: Draw, workers: int = 0) -> Iterator[float]:
    """Train from the trainer's current step to the end of the recipe, and yield the loss of each step.

    `workers` is the number of extra processes that cut patches. With 0, this process cuts the patches.
    """
    for end, side in recipe.stages:
        batches = Batches(draw, recipe.batch_shape(side), trainer.seed)
        for clean, noisy in _load(batches, trainer.steps, workers):
            if trainer.pixels >= end * recipe.pixels:
                break
            if trainer.pixels >= recipe.quantized_from * recipe.pixels and not trainer.int8:
                trainer.quantize(batches[number][1] for number in range(MEASURED_BATCHES))
            yield trainer.step(clean, noisy, recipe.rate(trainer.pixels))


def _load(batches: Batches, first: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    numbers = range(first, 2**40)
    return iter(
        DataLoader(batches, batch_size=None, sampler=numbers, num_workers=workers, worker_init_fn=_ignore_interrupts)
    )


def _ignore_interrupts(_: int) -> None:
    # Ctrl-C reaches the workers too, but the last step still needs their patches.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def train(
    run: Run,
    trainer: Trainer,
    recipe: Recipe,
    data: Data,
    *,
    every: float,
    workers: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, Any]]:
    """Train to the end of the recipe, or until `stopped` returns true, and yield the log line of each checkpoint.

    Checkpoints come every `every` seconds and at the end.
    """
    last, done, losses = time.monotonic(), trainer.pixels, []
    for loss in steps(trainer, recipe, data.draw, workers):
        losses.append(loss)
        now, ends = time.monotonic(), stopped()
        if ends or now - last >= every or trainer.pixels >= recipe.pixels:
            run.save(trainer)
            line = {
                "steps": trainer.steps,
                "megapixels": round(trainer.pixels / 1e6, 2),
                "rate": round(recipe.rate(trainer.pixels), 5),
                "loss": round(sum(losses) / len(losses), 3),
                "kpx_per_s": round((trainer.pixels - done) / (now - last) / 1e3, 1),
                "psnr": {name: round(psnr, 3) for name, psnr in trainer.validate(data.sets).items()},
            }
            run.log(line)
            yield line
            last, done, losses = time.monotonic(), trainer.pixels, []
        if ends:
            return
