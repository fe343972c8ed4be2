"""`python -m pixtools.training FOLDER... --out RUN`: train the denoiser on clean photos, or go on with it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from pixtools.training.photos import Batches, Photos, Shape, crops, split
from pixtools.training.trainer import Schedule, Trainer

# Most is learned from small patches, of many photos a batch; the last part from patches in which most pixels see
# their whole surroundings, as they do in a picture.
SIDES = ((0.6, 64), (1.0, 112))
CROP = 192


class Run:
    """A folder with what a run leaves: checkpoint.pt, log.jsonl, progress.png, weights.safetensors."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._checkpoint, self._log = folder / "checkpoint.pt", folder / "log.jsonl"

    def resume(self, trainer: Trainer) -> bool:
        if not self._checkpoint.exists():
            return False
        trainer.load_state_dict(torch.load(self._checkpoint, map_location=trainer.device, weights_only=True))
        return True

    def save(self, trainer: Trainer) -> None:
        # Both by renaming: what is there is whole whenever the run is killed.
        draft = self.folder / "draft"
        torch.save(trainer.state_dict(), draft)
        draft.replace(self._checkpoint)
        save_file(trainer.averaged(), draft)
        draft.replace(self.folder / "weights.safetensors")

    def log(self, line: dict[str, Any]) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")


def batches(photos: Photos, trainer: Trainer, shape: Shape, seed: int, workers: int) -> Iterator[Tensor]:
    steps = range(trainer.steps, 2**40)
    return iter(DataLoader(Batches(photos, shape, seed), batch_size=None, sampler=steps, num_workers=workers))


@click.command(context_settings={"show_default": True})
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The run's folder.")
@click.option("--megapixels", default=500.0, help="Length of the whole run, in megapixels of patches.")
@click.option("--batch-pixels", default=50_000, help="Size of a batch.")
@click.option("--rate", default=0.01, help="Highest learning rate of Muon.")
@click.option("--seed", default=1, help="Of the first weights, the patches and the noise.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda.")
@click.option("--workers", default=0, help="Processes that cut patches; a GPU wants some.")
@click.option("--every", default=300.0, help="Seconds between checkpoints.")
def main(
    folders: tuple[Path, ...],
    out: Path,
    megapixels: float,
    batch_pixels: int,
    rate: float,
    seed: int,
    device: str,
    workers: int,
    every: float,
) -> None:
    run, schedule, trainer = Run(out), Schedule(rate), Trainer(torch.device(device), seed)
    learn, judge = split(folders)
    photos, pictures = Photos(learn), crops(judge, CROP)
    click.echo(f"{len(learn)} photos to learn from, {len(judge)} to judge by")
    if run.resume(trainer):
        click.echo(f"Going on from step {trainer.steps}.")
    pixels = megapixels * 1e6
    for end, side in SIDES:
        shape = Shape(max(1, round(batch_pixels / side**2)), side)
        last, done, losses = time.monotonic(), trainer.pixels, []
        for clean in batches(photos, trainer, shape, seed, workers):
            if trainer.pixels >= end * pixels:
                break
            losses.append(trainer.step(clean, schedule.at(trainer.pixels / pixels)))
            now = time.monotonic()
            if now - last >= every or trainer.pixels >= end * pixels:
                run.save(trainer)
                line = {
                    "steps": trainer.steps,
                    "megapixels": round(trainer.pixels / 1e6, 2),
                    "rate": round(schedule.at(trainer.pixels / pixels), 5),
                    "loss": round(sum(losses) / len(losses), 3),
                    "kpx_per_s": round((trainer.pixels - done) / (now - last) / 1e3, 1),
                    "psnr": {sigma: round(found, 3) for sigma, found in trainer.validate(pictures).items()},
                }
                run.log(line)
                click.echo(json.dumps(line))
                last, done, losses = time.monotonic(), trainer.pixels, []


if __name__ == "__main__":
    main()
