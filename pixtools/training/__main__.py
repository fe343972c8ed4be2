"""The command `python -m pixtools.training FOLDERS... --out RUN`: train the denoiser, or continue a run."""

from __future__ import annotations

import hashlib
import json
import math
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import click

CROP_SIDE = 192  # side of the validation crops, in pixels


class FiniteRange(click.FloatRange):
    """A range of finite numbers. click.FloatRange accepts NaN, and infinity if there is no upper bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number. Fails if the number is outside the range, or not finite."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


@click.command(context_settings={"show_default": True})
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--pairs",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with pairs of noisy and clean photos. The option may be repeated.",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the run.")
@click.option(
    "--megapixels",
    default=500.0,
    type=FiniteRange(min=0, min_open=True),
    help="Length of the whole run, in megapixels of patches.",
)
@click.option("--batch-pixels", default=50_000, type=click.IntRange(min=1), help="Size of a batch, in pixels.")
@click.option("--rate", default=0.01, type=FiniteRange(min=0, min_open=True), help="Highest learning rate of Muon.")
@click.option(
    "--seed", default=1, type=click.IntRange(0, 2**32 - 1), help="Seed of the first weights, the patches and the noise."
)
@click.option(
    "--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="auto uses a GPU if there is one."
)
@click.option(
    "--workers", default=0, type=click.IntRange(min=0), help="Extra processes that cut patches; use several with a GPU."
)
@click.option(
    "--start",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="First weights of a new run. By default, they are random.",
)
@click.option("--every", default=300.0, type=FiniteRange(min=0), help="Seconds between checkpoints.")
def main(
    folders: tuple[Path, ...],
    pairs: tuple[Path, ...],
    out: Path,
    megapixels: float,
    batch_pixels: int,
    rate: float,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    workers: int,
    start: Path | None,
    every: float,
) -> None:
    """Train the denoiser. If the folder --out has a checkpoint, its run is continued.

    The photos of FOLDERS are clean. They get synthetic noise: white noise, noise of cameras, and grain of film.

    A folder of --pairs holds pairs of photos of the same scene, one with real noise and one without. The files of a
    pair are 1_noisy.png and 1_clean.png. Or they have the same name in two subfolders, noisy and clean.

    Small photos are refused. All photos for training stay in memory.

    Ctrl-C saves a checkpoint and ends the command. The same command continues from the checkpoint. A stop does not
    change the final weights. The photos, --batch-pixels, --rate, --seed and --start must stay the same.
    """
    device = _device(device)
    # These modules import PyTorch, which may be missing.
    from pixtools.denoising.dncnn import parse  # noqa: PLC0415
    from pixtools.errors import WeightsUnusable  # noqa: PLC0415
    from pixtools.training.data import load  # noqa: PLC0415
    from pixtools.training.run import STAGES, Recipe, Run, train  # noqa: PLC0415
    from pixtools.training.trainer import Schedule, Trainer  # noqa: PLC0415

    # Weights that are trained already gain nothing from small patches.
    stages = STAGES[-1:] if start else STAGES
    recipe = Recipe(megapixels * 1e6, batch_pixels, Schedule(rate), stages)
    try:
        trainer = Trainer(device, seed, start=parse(start.read_bytes(), start.name) if start else None)
        data = load(folders, pairs, recipe.max_side, CROP_SIDE)
        settings: dict[str, str | float] = {
            "--seed": seed,
            "--batch-pixels": batch_pixels,
            "--rate": rate,
            "--start": hashlib.sha256(start.read_bytes()).hexdigest() if start else "none",
            "photos": data.digest,
        }
        run = Run(out, settings)
        resumed = run.resume(trainer)
    except (OSError, ValueError, WeightsUnusable) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Photos: {data.used} for training, {data.held_out} for validation.")
    if resumed:
        click.echo(f"Continuing from step {trainer.steps}.")
    if trainer.pixels >= recipe.pixels:
        click.echo(
            f"The run is complete: it used {trainer.pixels / 1e6:.2f} megapixels. To continue it, raise --megapixels."
        )
        return
    stopped = _stopped_by_signal()
    for line in train(run, trainer, recipe, data, every=every, workers=workers, stopped=stopped):
        click.echo(json.dumps(line))
    if trainer.pixels < recipe.pixels:
        click.echo(f"Stopped after step {trainer.steps}. The same command continues from there.")


def _device(name: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    try:
        import_module("matplotlib")  # so that the error comes now, and not minutes later at the first checkpoint
        import torch  # noqa: PLC0415 (an optional extra)
    except ModuleNotFoundError as error:
        raise click.ClickException(f"Training needs {error.name}: pip install 'pixtools[train]'") from None
    if name == "cuda" and not torch.cuda.is_available():
        raise click.ClickException(
            f"PyTorch {torch.__version__} sees no GPU: use a build for GPUs on a machine with a GPU, or --device cpu"
        )
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _stopped_by_signal() -> Callable[[], bool]:
    """Return a function that tells whether Ctrl-C was pressed. A second Ctrl-C raises KeyboardInterrupt at once."""
    received = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, stop)
    return lambda: bool(received)


if __name__ == "__main__":
    main()
