"""The command line `pixtools`."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import click
from pydantic import TypeAdapter, ValidationError
from pydantic_settings import SettingsError

from pixtools.database import migrate as migrations
from pixtools.local import up as local
from pixtools.local.local_error import LocalError
from pixtools.local.local_settings import LocalSettings
from pixtools.settings import DurationOrZero, Settings
from serve.dead_letters_cli import dead_letters
from serve.submit_cli import submit
from serve.webhooks_cli import webhooks

_CONFIG = Path(__file__).parent.parent / "serve_config.yaml"
_DRAIN_TIMEOUT: timedelta = Settings.model_fields["drain_timeout"].default


class DurationType(click.ParamType[timedelta]):
    """A time span: a number of seconds, or ISO 8601 such as `PT30S`. Zero means: do not wait."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return `value` as a time span. Raises BadParameter if `value` is not valid."""
        try:
            duration: timedelta = TypeAdapter(DurationOrZero).validate_python(value)
        except ValidationError as error:
            self.fail(f"{value!r}: {error.errors()[0]['msg']}", param, ctx)
        return duration


@click.group()
def main() -> None:
    """PixTools, an image pipeline on Ray."""


@main.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=_CONFIG,
    help="The Ray Serve configuration to deploy. Default: the configuration that comes with PixTools.",
)
@click.option("--parent", type=int, help="The process id of the caller. PixTools stops when the caller ends.")
def up(config: Path, parent: int | None) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    try:
        sys.exit(local.up(_settings(), config, parent))
    except LocalError as error:
        raise click.ClickException(str(error)) from error


@main.command()
def migrate() -> None:
    """Migrate the database at PIXTOOLS_DATABASE_URL to the newest version."""
    url = _settings().database_url
    if url is None:
        raise click.ClickException("Set PIXTOOLS_DATABASE_URL. `pixtools up` migrates its own database.")
    migrations.upgrade(url.get_secret_value())


@main.command()
@click.option(
    "--timeout",
    "--patience",
    "timeout",
    type=DurationType(),
    envvar=["PIXTOOLS_DRAIN_TIMEOUT", "PIXTOOLS_DRAIN"],
    default=_DRAIN_TIMEOUT,
    show_default=f"{_DRAIN_TIMEOUT.total_seconds():g}",
    help="Running jobs may finish within this time: a number of seconds, or ISO 8601 such as PT30S. The variable "
    "PIXTOOLS_DRAIN_TIMEOUT also sets this time. --patience is an earlier name of this option.",
)
@click.option("--here", is_flag=True, help="Only empty this node. Run this before you remove it from the cluster.")
def drain(timeout: timedelta, *, here: bool) -> None:
    """Stop all dispatchers. Run this command before you stop the Ray cluster at RAY_ADDRESS.

    Running jobs may finish within the timeout. All other jobs go back to the queue.

    With --here, the cluster goes on. Ray places nothing more on this node, its converters end after their work, and
    replicas of Serve move to other nodes.
    """
    import ray  # noqa: PLC0415 (the import takes a second, and no other command needs it)

    from actors import fleet  # noqa: PLC0415

    try:
        ray.init(address="auto", log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        raise click.ClickException(f"Cannot connect to a Ray cluster at RAY_ADDRESS: {error}") from error
    if here:
        try:
            actors = fleet.drain_this_node(timeout.total_seconds())
        except RuntimeError as error:
            raise click.ClickException(str(error)) from error
        left = [f"{actors} actors on this node"] if actors else []
    else:
        left = fleet.drain(timeout.total_seconds())
    ray.shutdown()
    if left:
        raise click.ClickException(f"Still running after {timeout.total_seconds():g} s: {', '.join(left)}.")


main.add_command(dead_letters)
main.add_command(submit)
main.add_command(webhooks)


def _settings() -> LocalSettings:
    try:
        return LocalSettings()
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    except ValidationError as error:
        lines = (f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise click.ClickException("\n".join(["These settings from the environment are not valid:", *lines])) from error
