"""What goes wrong while the parts of one machine are started."""


class LocalError(Exception):
    """A part of the local service cannot start or has ended; the message names the remedy."""
