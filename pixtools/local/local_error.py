"""The error of the launcher. The user sees its message without a traceback."""


class LocalError(Exception):
    """A component of the local service cannot start, or has ended. The message says what to do, if that is known."""
