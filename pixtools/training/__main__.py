"""`python -m pixtools.training FOLDER... --out RUN`: train the denoiser on clean photos, or go on with it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Literal

import click

CROP = 192  # the side of what is cut from the photos to judge by, in pixels


@click.command(context_settings={"show_default": True})
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The run's folder.")
@click.option(
    "--megapixels",
    default=500.0,
    type=click.FloatRange(min=0, min_open=True),
    help="Length of the whole run, in megapixels of patches.",
)
@click.option("--batch-pixels", default=50_000, type=click.IntRange(min=1), help="Size of a batch.")
@click.option(
    "--rate", default=0.01, type=click.FloatRange(min=0, min_open=True), help="Highest learning rate of Muon."
)
@click.option(
    "--seed", default=1, type=click.IntRange(0, 2**32 - 1), help="Of the first weights, the patches and the noise."
)
@click.option(
    "--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="auto takes a GPU where there is one."
)
@click.option("--workers", default=0, type=click.IntRange(min=0), help="Processes that cut patches; a GPU wants some.")
@click.option("--every", default=300.0, type=click.FloatRange(min=0), help="Seconds between checkpoints.")
def main(
    folders: tuple[Path, ...],
    out: Path,
    megapixels: float,
    batch_pixels: int,
    rate: float,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    workers: int,
    every: float,
) -> None:
    """Train the denoiser on the clean photos of FOLDERS, or go on with the run in --out.

    Ctrl-C saves a checkpoint and ends; the same command goes on from there, as if nothing had been.
    """
    device = _device(device)
    # They import PyTorch.
    from pixtools.training import photos as from_photos  # noqa: PLC0415
    from pixtools.training.run import Plan, Run, train  # noqa: PLC0415
    from pixtools.training.trainer import Schedule, Trainer  # noqa: PLC0415

    plan, run, trainer = Plan(megapixels * 1e6, batch_pixels, Schedule(rate)), Run(out), Trainer(device, seed)
    try:
        learn, judge = from_photos.split(folders)
        photos, pictures = from_photos.Photos(learn, plan.largest_side), from_photos.crops(judge, CROP)
        resumed = run.resume(trainer)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(learn)} photos to learn from, {len(judge)} to judge by")
    if resumed:
        click.echo(f"Going on from step {trainer.steps}.")
    if trainer.pixels >= plan.pixels:
        click.echo(f"{trainer.pixels / 1e6:.2f} megapixels are done already: give more --megapixels to go on.")
        return
    stopped = _stopped_by_signal()
    for line in train(run, trainer, plan, photos, pictures, every=every, workers=workers, stopped=stopped):
        click.echo(json.dumps(line))
    if trainer.pixels < plan.pixels:
        click.echo(f"Stopped after step {trainer.steps}: the same command goes on from there.")


def _device(name: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    try:
        import_module("matplotlib")  # is not to be missed at the first checkpoint
        import torch  # noqa: PLC0415 (an optional extra)
    except ModuleNotFoundError as error:
        raise click.ClickException(f"Training needs {error.name}: pip install 'pixtools[train]'") from None
    if name == "cuda" and not torch.cuda.is_available():
        raise click.ClickException(f"PyTorch {torch.__version__} sees no GPU: give it one, or --device cpu")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _stopped_by_signal() -> Callable[[], bool]:
    """Return what says whether Ctrl-C was pressed: the step at hand is finished first; a second one does not wait."""
    came = []

    def stop(number: int, _: object) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, stop)
    return lambda: bool(came)


if __name__ == "__main__":
    main()
