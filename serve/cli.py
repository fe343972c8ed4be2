"""The command line: `pixtools`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from pydantic import ValidationError

from pixtools.database import migrate as migrations
from pixtools.local import up as local
from pixtools.local.local_error import LocalError
from pixtools.local.local_settings import LocalSettings
from serve.dead_letters_cli import dead_letters

_CONFIG = Path(__file__).parent.parent / "serve_config.yaml"


@click.group()
def main() -> None:
    """PixTools, an image pipeline on Ray."""


@main.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=_CONFIG,
    help="The Serve configuration to deploy. Default: the project's own.",
)
@click.option("--parent", type=int, help="End when this process, the caller, ends.")
def up(config: Path, parent: int | None) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    try:
        sys.exit(local.up(_settings(), config, parent))
    except LocalError as error:
        raise click.ClickException(str(error)) from error


@main.command()
def migrate() -> None:
    """Bring the database at PIXTOOLS_DATABASE_URL up to date."""
    url = _settings().database_url
    if url is None:
        raise click.ClickException("Set PIXTOOLS_DATABASE_URL; `pixtools up` migrates a database of its own.")
    migrations.upgrade(url.get_secret_value())


@main.command()
@click.option(
    "--patience",
    type=float,
    envvar="PIXTOOLS_DRAIN",
    default=20,
    show_default=True,
    help="Seconds that running jobs have to end; PIXTOOLS_DRAIN sets it too.",
)
def drain(patience: float) -> None:
    """Let running jobs end and hand the others back, before the cluster at RAY_ADDRESS is stopped."""
    import ray  # noqa: PLC0415 (takes a second, which the other commands need not pay)

    from actors import fleet  # noqa: PLC0415

    try:
        ray.init(address="auto", log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        raise click.ClickException(f"There is no Ray cluster at RAY_ADDRESS, or it refuses us: {error}") from error
    left = fleet.drain(patience)
    ray.shutdown()
    if left:
        raise click.ClickException(f"Still there after {patience:g} s: {', '.join(left)}.")


main.add_command(dead_letters)


def _settings() -> LocalSettings:
    try:
        return LocalSettings()
    except ValidationError as error:
        lines = (f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise click.ClickException("\n".join(["The environment sets PixTools wrongly:", *lines])) from error
