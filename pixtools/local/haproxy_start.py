"""The program that Ray Serve starts as HAProxy. It replaces the configuration by ours, and then becomes HAProxy.

Its arguments are the file with the Front, the path of HAProxy, and the arguments of HAProxy.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from pixtools.local.haproxy_config import Front, ours
from pixtools.local.local_error import LocalError
from pixtools.local.processes import MARK, end_with_parent


def main(front_file: str, binary: str, *arguments: str) -> None:
    """Replace the configuration after `-f` in the arguments, and execute HAProxy. Exits if Ray's text is unexpected."""
    # If the actor that started HAProxy is killed, its successor needs the port.
    end_with_parent(signal.SIGKILL, os.getppid())
    front = json.loads(Path(front_file).read_text())
    front["trusted_proxies"] = tuple(front["trusted_proxies"])
    config = Path(arguments[arguments.index("-f") + 1])
    new = config.with_suffix(".new")
    try:
        new.write_text(ours(config.read_text(), Front(**front)))
    except LocalError as error:
        sys.exit(str(error))
    new.chmod(0o600)
    # Ray recognizes its HAProxy by the path of the configuration in the command line. So the path stays.
    new.replace(config)
    # HAProxy reads requests of strangers, so it gets no secrets. The mark lets the next start find a lost process.
    os.execve(binary, [binary, *arguments], {name: os.environ[name] for name in (MARK,) if name in os.environ})  # noqa: S606


if __name__ == "__main__":
    main(*sys.argv[1:])
