"""A training run: what is asked of it, what it leaves in its folder, and its steps from one checkpoint to the next."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from pixtools.denoising.dncnn import INT8
from pixtools.training.photos import Batches, Photos, Shape
from pixtools.training.plot import draw
from pixtools.training.trainer import Schedule, Trainer

# Up to which part of a run patches have which side. Most is learned from small patches, of many photos a batch; the
# last part from patches in which most pixels see their whole surroundings, as they do in a picture.
STAGES = ((0.6, 64), (1.0, 112))
# The part of a run after which it trains for int8. A run that is made longer afterwards goes on so.
QUANTIZED_FROM = 0.75
LOOKED_AT = 24  # batches that tell how large activations get


@dataclass(frozen=True)
class Plan:
    """What is asked of a run."""

    pixels: float  # of patches, from its first step to its last
    batch_pixels: int
    schedule: Schedule
    stages: tuple[tuple[float, int], ...] = STAGES
    quantized_from: float = QUANTIZED_FROM

    @property
    def largest_side(self) -> int:
        return max(side for _, side in self.stages)

    def rate(self, pixels: int) -> float:
        return self.schedule.at(pixels / self.pixels)

    def shape(self, side: int) -> Shape:
        return Shape(max(1, round(self.batch_pixels / side**2)), side)


class Run:
    """A folder with what a run leaves: checkpoint.pt, log.jsonl, progress.png, weights.safetensors."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._checkpoint, self._log = folder / "checkpoint.pt", folder / "log.jsonl"
        self._weights, self._progress = folder / "weights.safetensors", folder / "progress.png"
        # Files are renamed into their place: what is there is whole whenever the run is killed.
        self._draft = folder / "draft"

    def resume(self, trainer: Trainer) -> bool:
        """Go on from the checkpoint, if there is one; raises ValueError for one that is damaged or of another seed."""
        if not self._checkpoint.exists():
            return False
        try:
            state = torch.load(self._checkpoint, map_location=trainer.device, weights_only=True)
            seed = state["seed"]
            if seed == trainer.seed:
                trainer.load_state_dict(state)
        except Exception as error:  # (PyTorch raises what it likes at a file that is not its own)
            raise ValueError(
                f"{self._checkpoint} is damaged, or of another version ({type(error).__name__}: {error}): "
                "put a copy in its place, or begin anew with another --out"
            ) from error
        if seed != trainer.seed:
            raise ValueError(
                f"{self._checkpoint} is of a run with --seed {seed}, not {trainer.seed}: give --seed {seed} to go on "
                "with it, or another --out to begin anew"
            )
        return True

    def save(self, trainer: Trainer) -> None:
        torch.save(trainer.state_dict(), self._draft)
        self._draft.replace(self._checkpoint)
        metadata = {INT8: " ".join(map(str, trainer.int8))} if trainer.int8 else None
        save_file(trainer.averaged(), self._draft, metadata)
        self._draft.replace(self._weights)

    def log(self, line: dict[str, Any]) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        draw([json.loads(each) for each in self._log.read_text().splitlines()], self._draft)
        self._draft.replace(self._progress)


def steps(trainer: Trainer, plan: Plan, photos: Photos, workers: int = 0) -> Iterator[float]:
    """Train from where the trainer is to the end of the plan, and yield the loss of each step."""
    for part, side in plan.stages:
        batches = Batches(photos, plan.shape(side), trainer.seed)
        for clean in _batches(batches, trainer.steps, workers):
            if trainer.pixels >= part * plan.pixels:
                break
            if trainer.pixels >= plan.quantized_from * plan.pixels and not trainer.int8:
                trainer.quantize(batches[number] for number in range(LOOKED_AT))
            yield trainer.step(clean, plan.rate(trainer.pixels))


def _batches(batches: Batches, first: int, workers: int) -> Iterator[Tensor]:
    numbers = range(first, 2**40)
    return iter(
        DataLoader(batches, batch_size=None, sampler=numbers, num_workers=workers, worker_init_fn=_leave_signals)
    )


def _leave_signals(_: int) -> None:
    # Ctrl-C is sent to the workers too, who would be gone when the last step asks for its patches.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def train(
    run: Run,
    trainer: Trainer,
    plan: Plan,
    photos: Photos,
    pictures: Tensor,
    *,
    every: float,
    workers: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, Any]]:
    """Train to the end of the plan, or until `stopped`, and yield what each checkpoint logs.

    A checkpoint comes `every` so many seconds, and at the end. Pictures, uint8 (N, 3, H, W), are what it is judged by.
    """
    last, done, losses = time.monotonic(), trainer.pixels, []
    for loss in steps(trainer, plan, photos, workers):
        losses.append(loss)
        now, ends = time.monotonic(), stopped()
        if ends or now - last >= every or trainer.pixels >= plan.pixels:
            run.save(trainer)
            line = {
                "steps": trainer.steps,
                "megapixels": round(trainer.pixels / 1e6, 2),
                "rate": round(plan.rate(trainer.pixels), 5),
                "loss": round(sum(losses) / len(losses), 3),
                "kpx_per_s": round((trainer.pixels - done) / (now - last) / 1e3, 1),
                "psnr": {sigma: round(found, 3) for sigma, found in trainer.validate(pictures).items()},
            }
            run.log(line)
            yield line
            last, done, losses = time.monotonic(), trainer.pixels, []
        if ends:
            return
