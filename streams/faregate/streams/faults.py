"""What ends a worker."""


class StreamsFault(Exception):
    """A stream cannot start, has ended by itself, or is stuck; the message says why."""
