"""Whose account a customer of Lago is.

The external id is `user:<id>` or `org:<id>`: that account, made where there is none. Without a
prefix it is the org or the user whose id it is; if it is both, or neither, the message is refused,
so that Lago shows it as failed and it can be sent again. For ids that are neither the settings may
say otherwise.
"""

from __future__ import annotations

import asyncpg

from faregate.gateway.lago.settings import LagoSettings
from faregate.gateway.problems import Problem

_KNOWN = """
SELECT EXISTS (SELECT FROM org_names WHERE org_id = $1)
       OR EXISTS (SELECT FROM subjects WHERE subject = 'org:' || $1) AS org,
       EXISTS (SELECT FROM users WHERE user_id = $1)
       OR EXISTS (SELECT FROM subjects WHERE subject = 'user:' || $1) AS "user"
"""


async def subject_of(pool: asyncpg.Pool, settings: LagoSettings, external_id: str) -> str:
    """Give the account of a customer. Raises Problem `unknown_customer`."""
    kind, colon, name = external_id.partition(":")
    if colon and kind in {"user", "org"} and name.strip() == name != "":
        return external_id
    row = await pool.fetchrow(_KNOWN, external_id)
    kinds = [kind for kind in ("org", "user") if row[kind]]
    if not kinds and settings.unknown_customer != "refuse":
        kinds = [settings.unknown_customer]
    if len(kinds) == 1:
        return f"{kinds[0]}:{external_id}"
    found = "both a user's and an org's" if kinds else "neither a user's nor an org's"
    raise Problem("unknown_customer", f"The customer's external id is {found} id.")
