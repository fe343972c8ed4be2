"""Keeps servers running: starts a server again if it has ended, and gives up if it ends again and again.

The keeper also lets each server tidy up every minute.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Never

    from pixtools.local.server import Server

_PAUSES_S = (0.0, 1.0, 2.0, 5.0, 10.0)
"""The pause before each start, for one failure after another. After the last one, the keeper gives up."""

_CALM_S = 600.0  # after this time without a failure, a server gets all its attempts again
_LOOK_S = 0.5
_TIDY_S = 60.0


class Kept:
    """A server that is started again if it has ended."""

    def __init__(self, server: Server, again: Callable[[], Server], then: Callable[[], None] = lambda: None) -> None:
        """`again` starts the server in the same place. `then` is called when the new server answers."""
        self.server = server
        self._again = again
        self._then = then
        self._failures: list[float] = []

    def start_again(self) -> None:
        """Start the server, and wait until it works. Raises LocalError if it does not."""
        self.server = self._again()
        self.server.wait()
        self._then()

    def stop(self) -> None:
        """Stop the server and every process that it started."""
        self.server.stop()

    @property
    def works(self) -> bool:
        """Whether the server runs and works."""
        try:
            self.server.check()
        except LocalError:
            return False
        return True

    def pause(self, now: float) -> float | None:
        """Count a failure. Return the pause before the next start in seconds, or None if no attempt is left."""
        self._failures = [at for at in self._failures if at > now - _CALM_S] + [now]
        number = len(self._failures)
        return _PAUSES_S[number - 1] if number <= len(_PAUSES_S) else None


class Keeper:
    """Watches servers, and starts them again."""

    def __init__(
        self,
        kept: Sequence[Kept],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`kept` are the servers. A server may need those before it. `say` prints a message for the user."""
        self._kept = kept
        self._say = say
        self._clock = clock
        self._sleep = sleep

    def watch(self) -> Never:
        """Watch the servers for ever. Raises LocalError if a server has failed six times within ten minutes."""
        tidied = self._clock()
        while True:
            for kept in self._kept:
                try:
                    kept.server.check()
                except LocalError as error:
                    self._restart(kept, str(error))
            if self._clock() >= tidied + _TIDY_S:
                tidied = self._clock()
                for kept in self._kept:
                    kept.server.tidy()
            self._sleep(_LOOK_S)

    def _restart(self, kept: Kept, reason: str) -> None:
        pause = kept.pause(self._clock())
        if pause is None:
            raise LocalError(
                f"{reason}\n\nThis has happened {len(_PAUSES_S) + 1} times within {_CALM_S / 60:.0f} minutes"
            )
        self._say(f"{reason}\nStarting {kept.server.name} again{f' in {pause:.0f} s' if pause else ''}.")
        kept.stop()
        self._sleep(pause)
        began = self._clock()
        try:
            kept.start_again()
        except LocalError as error:
            self._say(f"This start failed: {error}")
            kept.stop()
        else:
            self._say(f"{kept.server.name} works again after {self._clock() - began:.1f} s.")
