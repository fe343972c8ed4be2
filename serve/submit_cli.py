"""The command that submits a folder of pictures through Ray."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import click

from dag.plan import NAME
from serve.ray_client import connect
from serve.submit_folder import (
    Failure,
    FolderSubmission,
    JobTemplate,
    Journal,
    OutputInUse,
    ServiceBusy,
    find_pictures,
)

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_MAX_SHOWN = 20


class PartType(click.ParamType[tuple[str, bytes]]):
    """A further file of each job, such as `logo=logo.png`."""

    name = "name=file"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, bytes]:
        """Return the name and the content. Raises BadParameter if `value` is not valid."""
        name, _, path = str(value).partition("=")
        if not NAME.fullmatch(name) or not path:
            self.fail(f"{value!r} is not of the form NAME=FILE, such as logo=logo.png.", param, ctx)
        try:
            return name, Path(path).read_bytes()
        except OSError as error:
            self.fail(f"{path} cannot be read: {error.strerror}.", param, ctx)


@click.command()
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option(
    "--address",
    required=True,
    envvar="RAY_ADDRESS",
    help="The address of the cluster for Ray clients, ray://HOST:10001. RAY_ADDRESS also sets it.",
)
@click.option(
    "--token-file",
    type=_FILE,
    help="The file with the token of the cluster. Default: the places where Ray looks for a token.",
)
@click.option("--steps", "steps_file", type=_FILE, required=True, help="A JSON file with the steps of each job.")
@click.option("--part", "parts", type=PartType(), multiple=True, help="A further file of each job, such as a logo.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder for the results."
)
@click.option("--at-once", type=click.IntRange(1, 20), default=8, show_default=True, help="Jobs that run at a time.")
def submit(
    folder: Path,
    address: str,
    token_file: Path | None,
    steps_file: Path,
    parts: tuple[tuple[str, bytes], ...],
    out: Path,
    at_once: int,
) -> None:
    """Run the same steps on all pictures of the folder DIR, through Ray.

    If the command was stopped or killed, run it again. Then it leaves finished pictures alone, and tries failed ones
    again. The results of DIR/a/b.jpg go to OUT/a.
    """
    try:
        template = JobTemplate(steps_file.read_text(), dict(parts))
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{steps_file} cannot be read: {error}") from error
    if out.resolve() == folder.resolve():
        raise click.BadParameter("The results need another folder than the pictures.", param_hint="--out")
    try:
        pictures, others = find_pictures(folder, without=out)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    if not pictures:
        raise click.ClickException(f"There is no picture in {folder}.")
    click.echo(f"Pictures in {folder}: {len(pictures)}. Other files: {others}.")
    try:
        with Journal.open(out, template.digest) as journal, connect(address, token_file) as client:
            failures = _run(FolderSubmission(client, folder, out, template, journal), pictures, at_once)
    except (OutputInUse, OSError) as error:  # ConnectionError is an OSError
        raise click.ClickException(str(error)) from error
    click.echo(f"Results in {out}. Succeeded: {len(pictures) - len(failures)}. Failed: {len(failures)}.")
    for failure in failures[:_MAX_SHOWN]:
        click.echo(f"  {failure.name}: {failure.reason}", err=True)
    if failures:
        more = f"These are the first {_MAX_SHOWN}. " if len(failures) > _MAX_SHOWN else ""
        click.echo(f"{more}Run the same command again to try the failed pictures again.", err=True)
        sys.exit(1)


def _run(submission: FolderSubmission, pictures: list[str], at_once: int) -> list[Failure]:
    """Submit the pictures, and show the progress. If the run cannot be continued, end this process."""
    try:
        with click.progressbar(submission.run(pictures, at_once), len(pictures), label="Done") as results:
            return [failure for failure in results if failure is not None]
    except ServiceBusy as error:
        message = f"Error: {error}"
    except KeyboardInterrupt:
        message = "Stopped."
    except Exception:  # noqa: BLE001 (otherwise Python would wait for the threads)
        message = traceback.format_exc()
    click.echo(f"\n{message}\nRun the same command again to continue.", err=True)
    sys.stderr.flush()
    os._exit(1)  # at once, because threads may still wait for answers, and Ray for its connection
