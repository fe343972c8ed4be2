"""A process that calls one function with many inputs, and measures the CPU time and the memory of each call.

The CPU time is that of all threads of the process, in user mode and in the kernel. Waiting does not count, so other
work on the machine hardly changes the result.

The memory is the resident memory of the process. Linux keeps its highest value (VmHWM). Before each call, the process
returns free memory to the system (`malloc_trim`) and sets the highest value back to the present one, by writing 5 to
/proc/self/clear_refs. So memory of Python objects, of libraries and of buffers counts, and memory that an earlier call
left in the allocator does not hide it. The result is exact to about a megabyte.
"""

from __future__ import annotations

import ctypes
import gc
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from replaced_process import ProcessDied, ProcessHung, ReplacedProcess

from pixtools.errors import PixToolsError


@dataclass(frozen=True)
class Measurement:
    """The cost of one call. `peak_bytes` is the highest memory during the call, less the memory before it.

    `refused` is the code of the error that the function raised, if it is an error of PixTools. `failure` is set if the
    function raised any other exception, or if the process died or missed its deadline. In the last two cases there are
    no costs.
    """

    cpu_s: float = 0.0
    peak_bytes: int = 0
    refused: str | None = None
    failure: str | None = None


class MeasuredProcess:
    """A process for one function of one argument. If the process dies or misses its deadline, it is replaced.

    The function has to be at the top level of a module, and its argument has to be picklable.
    """

    def __init__(self, function: Callable[[Any], object], deadline_s: float) -> None:
        self._process = ReplacedProcess(partial(_measured, function), deadline_s, _freeze)

    def run(self, argument: Any) -> Measurement:
        """Call the function in the process, and return its cost."""
        try:
            measured: Measurement = self._process.ask(argument)
        except ProcessHung as error:
            return Measurement(failure=str(error))
        except ProcessDied as error:
            return Measurement(failure=f"the process died: exit code {error}")
        return measured

    def close(self) -> None:
        """End the process."""
        self._process.close()


def _freeze() -> None:
    gc.collect()
    gc.freeze()  # otherwise each collection during a call would also look at all imported modules


def _measured(function: Callable[[Any], object], argument: Any) -> Measurement:
    refused = failure = None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    idle_bytes, started = _status_bytes("VmRSS"), time.process_time()
    try:
        function(argument)
    except PixToolsError as error:
        refused = error.code
    except BaseException:  # noqa: BLE001 (every other exception is a bug)
        failure = traceback.format_exc()
    cpu_s = time.process_time() - started
    return Measurement(cpu_s, max(0, _status_bytes("VmHWM") - idle_bytes), refused, failure)


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
