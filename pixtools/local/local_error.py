"""The error of the launcher: its message is shown to the user without a traceback."""


class LocalError(Exception):
    """A component of the local service cannot start, or has ended. The message names the remedy."""
