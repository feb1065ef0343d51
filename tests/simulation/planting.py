"""How a bug is planted: a name of the core or of the world means something else for a while."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

CORE = "faregate.ledger.core"


class Bug(NamedTuple):
    name: str
    plant: Callable[[], AbstractContextManager[Any]]


BUGS: list[Bug] = []


def bug(plant: Callable[[], AbstractContextManager[Any]]) -> None:
    """Enter a bug in the list, by the name of the function that plants it."""
    BUGS.append(Bug(plant.__name__, plant))


@contextmanager
def everywhere(name: str, around: Callable[..., Any]) -> Iterator[None]:
    """Put `around(original, ...)` in the place of a function, wherever the core uses its name."""
    modules = [m for n, m in sys.modules.items() if n.startswith(CORE) and hasattr(m, name)]
    assert modules, f"nothing in the core is called {name}"
    with ExitStack() as stack:
        for module in modules:
            original = getattr(module, name)
            stack.enter_context(patch.object(module, name, partial(around, original)))
        yield


def within(where: Any, name: str, around: Callable[..., Any]) -> AbstractContextManager[Any]:
    """Do so in one module alone."""
    return patch.object(where, name, partial(around, getattr(where, name)))


def method(of: type, name: str, around: Callable[..., Any]) -> AbstractContextManager[Any]:
    """Do so with a method: `around(original, self, ...)`."""
    original = getattr(of, name)

    def replaced(self: Any, *args: Any, **more: Any) -> Any:
        return around(original, self, *args, **more)

    return patch.object(of, name, replaced)


def handler(of: type, around: Callable[..., Any]) -> AbstractContextManager[Any]:
    """Do so with what decides one type of command."""
    handlers = sys.modules[f"{CORE}.decide"]._HANDLERS
    return patch.dict(handlers, {of: partial(around, handlers[of])})


@contextmanager
def both(*plants: AbstractContextManager[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for plant in plants:
            stack.enter_context(plant)
        yield


def nothing(_: Any, *args: Any, **more: Any) -> None:
    """In the place of a function that is forgotten."""
