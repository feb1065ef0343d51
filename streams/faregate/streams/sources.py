"""Which topics each stream reads, without prefix."""

SOURCES: dict[str, tuple[str, ...]] = {
    "burn": ("credits.ledger",),
    "denials": ("pipeline.denied",),
    "attribution": ("credits.ledger",),
    "fraud": ("users.registered", "credits.ledger"),
    "reconcile": ("credits.ledger", "credits.checkpoints"),
}

NAMES = tuple(SOURCES)
"""The streams."""


def application(prefix: str, name: str) -> str:
    """Give the id of a stream's Faust application; its consumer group has the same name."""
    return f"{prefix}faregate.streams.{name}"
