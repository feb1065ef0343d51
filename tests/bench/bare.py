"""The gateway, but registering makes no credit account: what that account costs is the difference."""

from __future__ import annotations

import sys
from unittest.mock import patch

from faregate.gateway.context import Gateway
from faregate.gateway.resources import auth
from faregate.runtime.__main__ import main


async def _nothing(_gateway: Gateway, _user_id: str, _referral: str | None) -> float:
    return 0


if __name__ == "__main__":
    sys.argv = ["faregate", "run", "gateway"]
    with patch.object(auth, "_provisioned", _nothing):
        main()
