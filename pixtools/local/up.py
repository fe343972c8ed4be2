"""`pixtools up`: runs the whole service on one machine."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alembic.util import CommandError
from pydantic import SecretStr, ValidationError
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from pixtools.database import migrate
from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.errors import DatabaseDown
from pixtools.local import deployment, exposure, ports, processes, ray_head, stores, supervisor, target
from pixtools.local.home import Home
from pixtools.local.keeper import Keeper, Kept
from pixtools.local.local_error import LocalError
from pixtools.local.service_manager import notify
from pixtools.settings import Settings
from pixtools.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pixtools.local.local_settings import LocalSettings
    from pixtools.local.server import Server
    from pixtools.local.target import Target


# Errors with these SQLSTATEs are temporary. The value is None while Postgres cannot be reached, and 57P03 while
# Postgres starts.
_STARTING = (None, "57P03")


def up(settings: LocalSettings, config: Path, parent: int | None) -> int:
    """Run the service until a signal arrives, the process `parent` ends, or a server fails again and again.

    Return the exit code.

    `config` is the path of the Serve configuration to deploy. Raises LocalError if this configuration, the home or the
    ports cannot be used, or if everyone could use the service.
    """
    if parent is not None:
        processes.end_with_parent(signal.SIGTERM, parent)
    serve_config = target.listening(deployment.read(config), settings)
    exposure.check(settings, serve_config)
    home = Home(settings.home)
    with home.locked(settings.page_url):
        processes.end_leftovers(home.path, ray_head.folder(home))
        ports.check(settings)
        return supervisor.run(lambda: _run(home, settings, serve_config), parent)


@dataclass(frozen=True)
class _Service:
    kept: list[Kept]
    head: Kept | None
    env: dict[str, str]

    def drain(self, home: Home) -> None:
        """Let running jobs finish before the dispatchers are stopped."""
        if self.head is None or not self.head.works:
            return
        with suppress(DatabaseDown), _job_store(self.env) as (store, settings):
            if store.backlog()[JobState.RUNNING]:
                timeout = settings.drain_timeout.total_seconds()
                _say(f"Running jobs have {timeout:.0f} s to finish. Press Ctrl-C to stop without waiting for them.")
                ray_head.drain(home, timeout)


@contextmanager
def _job_store(env: Mapping[str, str]) -> Iterator[tuple[JobStore, Settings]]:
    urls = [SecretStr(env[name]) for name in ("PIXTOOLS_DATABASE_URL", "PIXTOOLS_REDIS_URL")]
    settings = Settings(database_url=urls[0], redis_url=urls[1])
    database = Database(settings, pool_size=1)
    try:
        yield JobStore(database, settings), settings
    finally:
        database.close()


def _return_to_queue(env: Mapping[str, str]) -> None:
    """Return running jobs to the queue, so that the stop does not count as a crash. No dispatcher runs any more."""
    # If the database is down or not migrated, or the settings are invalid, no job can be returned.
    with suppress(DatabaseDown, SQLAlchemyError, ValidationError), _job_store(env) as (store, _):
        store.return_to_queue()


def _run(home: Home, settings: LocalSettings, serve_config: dict[str, Any]) -> int:
    """Start everything, wait for a reason to stop, and stop everything. Return the exit code."""
    code = 0
    with ExitStack() as stack:  # stops the started components, the last one first
        try:
            service = _start(home, settings, serve_config, stack)
            try:
                Keeper(service.kept, _report).watch()
            except supervisor.Stop:
                _say("\nStopping.")
                notify("STOPPING=1")
                service.drain(home)
        except supervisor.Stop:  # the signal came during the start
            _say("\nStopping.")
        except LocalError as error:
            folders = " and ".join(str(folder) for folder in (home.logs, ray_head.logs(home)) if folder.exists())
            _say(f"\n{error}\n\nStopping. The logs are in {folders}.")
            code = 1
    if code == 0:
        ray_head.remove_folder(home)
    _say("PixTools has stopped.")
    return code


def _start(home: Home, settings: LocalSettings, serve_config: dict[str, Any], stack: ExitStack) -> _Service:
    """Start every component, and wait until the service accepts jobs. `stack` stops the components."""
    began = time.monotonic()

    def ready(part: str) -> None:
        _say(f"  {part:<10}  ready after {time.monotonic() - began:4.1f} s")

    _say(f"Starting PixTools in {home.path}\n")
    kept = stores.start(home, settings, stack)
    env = _variables(home, settings, [each.server for each in kept])
    # The head starts at the same time as the stores, because only actors of the head need the stores.
    if settings.ray_address is None:
        place = target.start_head(home, settings, serve_config, env)
    else:
        place = target.use_cluster(home, settings.ray_address, settings, serve_config, env)
    head = None
    if place.head is not None:
        if settings.database_url is None:  # otherwise other clusters may run jobs of this database
            stack.callback(_return_to_queue, env)
        stored = tuple(kept)
        head = Kept(
            place.head,
            lambda: _start_head_again(home, settings, serve_config, env, stored),
            lambda: _deploy(place, kept),
        )
        stack.callback(head.stop)
    for each in kept:
        each.server.wait()
        ready(each.server.name)
    _migrate(env["PIXTOOLS_DATABASE_URL"], kept)
    ready("migrations")
    if head is not None:
        kept.append(head)
        head.server.wait()
        ready("ray")
    _deploy(place, kept)
    ready("service")
    _say(_summary(home, settings, place))
    notify("READY=1", "STATUS=The service accepts jobs.")
    return _Service(kept, head, env)


def _start_head_again(
    home: Home, settings: LocalSettings, serve_config: dict[str, Any], env: Mapping[str, str], stored: Iterable[Kept]
) -> Server:
    """Start a Ray head in the place of one that has ended. `stored` are the servers that keep data."""
    processes.end_others(each.server.process for each in stored)  # actors may outlive their head
    head = target.start_head(home, settings, serve_config, env).head
    assert head is not None  # noqa: S101 (start_head starts one)
    return head


def _variables(home: Home, settings: LocalSettings, servers: Sequence[Server]) -> dict[str, str]:
    """Return the PIXTOOLS_* variables of the service."""
    env = {name: value for name, value in os.environ.items() if name.startswith("PIXTOOLS_")}
    for name, url in (("PIXTOOLS_DATABASE_URL", settings.database_url), ("PIXTOOLS_REDIS_URL", settings.redis_url)):
        if url is not None:  # the URL may come from a file and not from the environment
            env[name] = url.get_secret_value()
    for server in servers:
        env |= server.env
    if settings.database_url is None:  # other services may use another database, and would need the same keys
        env.setdefault("PIXTOOLS_WEBHOOK_KEYS", home.secret("webhook-keys"))
    env.setdefault("PIXTOOLS_STORE_FOLDERS", ":".join(str(server.data) for server in servers))
    return env


def _deploy(place: Target, kept: list[Kept]) -> None:
    """Deploy the application, and wait until it accepts jobs."""
    place.cluster.deploy(place.serve_config)
    try:
        deployment.wait_until_running(place.cluster, lambda: _check(kept))
    except LocalError as error:
        raise place.explained(error) from error
    if place.page_is_reachable:
        _wait_until_clear(lambda: deployment.obstacle(place.page_url), kept)


def _migrate(database_url: str, kept: list[Kept]) -> None:
    def obstacle() -> str | None:
        try:
            migrate.upgrade(database_url)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) in _STARTING:
                return f"the database: {str(error.orig).strip().splitlines()[0]}"
            raise
        return None

    try:
        _wait_until_clear(obstacle, kept)
    except (SQLAlchemyError, CommandError) as error:
        raise LocalError(f"The database cannot be migrated: {error}") from error


def _wait_until_clear(obstacle: Callable[[], str | None], kept: list[Kept]) -> None:
    """Call `obstacle` until it returns None, and print each new obstacle. Raises LocalError if a server ends."""
    printed = None
    while (current := obstacle()) is not None:
        if current != printed:
            _say(f"  waiting: {current}")
            printed = current
        _check(kept)
        time.sleep(0.2)


def _check(kept: Iterable[Kept]) -> None:
    for each in kept:
        each.server.check()


def _summary(home: Home, settings: LocalSettings, place: Target) -> str:
    lines = [
        ("page", place.page_url),
        ("API", f"{place.page_url}/docs"),
        ("dashboard", place.cluster.dashboard_url),
        ("data", str(home.path)),
        ("logs", str(home.logs)),
    ]
    if place.head is not None:
        lines.insert(3, ("its token", f"in {home.secret_path('ray-token')}"))
        lines.append(("", str(ray_head.logs(home))))
    if not place.page_is_reachable:
        lines.append(("note", "the page listens on the loopback address of each node: put a reverse proxy there"))
    if settings.reachable_host != settings.host and settings.s3_public_url is None:
        lines.append(("note", "set PIXTOOLS_S3_PUBLIC_URL, so that browsers on other machines can load pictures"))
    return "\n".join(["", *(f"  {name:<10}  {text}" for name, text in lines), "", "Ctrl-C stops it."])


def _report(text: str) -> None:
    """Print what happened to a running service, with the time."""
    _say(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}")
    notify(f"STATUS={text.splitlines()[0]}")


def _say(text: str) -> None:
    with suppress(OSError):  # a closed terminal must not prevent the stop of the servers
        print(text, flush=True)  # noqa: T201 (what a user reads)
