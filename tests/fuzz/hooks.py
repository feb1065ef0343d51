"""What schemathesis does before each call: keys that come again would only be refused."""

from __future__ import annotations

from itertools import count
from typing import Any

import schemathesis

_HEADER = "idempotency-key"
_SHORT = 100
_numbers = count(1)


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Make most keys new ones: most of those that are made up have come before."""
    number, key = next(_numbers), (case.headers or {}).get(_HEADER)
    if isinstance(key, str) and 0 < len(key) < _SHORT and number % 4:
        case.headers[_HEADER] = f"{key}{number}"
