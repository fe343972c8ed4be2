"""Helpers for the faults of a `steps` document."""

from __future__ import annotations

from collections.abc import Callable, Collection

from pixtools.errors import MAX_FAULTS, Fault, InvalidPlan, shortened

_MAX_LIST = 240  # characters


class Faults:
    """Collects the faults of a document, and raises InvalidPlan at the 101st.

    So the cost of the messages is bounded, however many mistakes a document has. `relocate` changes the
    pointers of faults.
    """

    def __init__(self, relocate: Callable[[str], str] = str) -> None:
        self._relocate = relocate
        self._found: list[Fault] = []

    def add(self, at: str, detail: str) -> None:
        """Add a fault. `at` is a pointer, which `relocate` converts. Raises InvalidPlan for the 101st fault."""
        self.add_at(self._relocate(at), detail)

    def add_at(self, at: str, detail: str) -> None:
        """Add a fault. `at` is a pointer, which stays as it is. Raises InvalidPlan for the 101st fault."""
        if len(self._found) == MAX_FAULTS:
            raise InvalidPlan(
                f"More than {MAX_FAULTS} mistakes in the steps; only the first {MAX_FAULTS} are listed.",
                tuple(self._found),
            )
        self._found.append(Fault(at, detail))

    def error(self) -> InvalidPlan:
        """Return the error that lists the faults."""
        number = len(self._found)
        return InvalidPlan(f"{number} mistake{'s' if number > 1 else ''} in the steps.", tuple(self._found))

    def check(self) -> None:
        """Raise InvalidPlan if there are faults."""
        if self._found:
            raise self.error()


def invalid_plan(at: str, detail: str) -> InvalidPlan:
    """Return the error for a mistake after which no further check is possible."""
    faults = Faults()
    faults.add(at, detail)
    return faults.error()


def quote(value: object) -> str:
    """Format a client's value for a message. Put text in quotation marks, and cut the result to 80 characters."""
    return shortened(repr(shortened(value) if isinstance(value, str) else value))


def listed(names: Collection[str], separator: str = ", ") -> str:
    """Join names for a message. If they are too many for a sentence, name the first ones and the number of all."""
    shown: list[str] = []
    room = _MAX_LIST
    for name in names:
        room -= len(shortened(name)) + len(separator)
        if room < 0:
            return f"{separator.join(shown)}{separator}… ({len(names)} in all)"
        shown.append(shortened(name))
    return separator.join(shown)
