"""`erase`: take a person's identifiers out of the ledger, and leave it verifiable.

Names are beside the ledger, never in it: entries and outcomes carry account numbers and keyed
hashes. What is emptied here is `subjects.subject`, what callers called things (`refs`), who
allocated which grant with which words, and who did which administrative act. What the gateway
knows of them (e-mail address, password, invitations, own keys, answers) is deleted.

The account stays, as nobody's: `erased:<n>`. A name that comes again afterwards is a new account.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.events.amounts import format_credits
from faregate.ledger import audit, once
from faregate.ledger.core import Rejected
from faregate.ledger.keys import Keys
from faregate.ledger.names import erased
from faregate.ledger.queries import SQL as STORE_SQL
from faregate.ledger.scan import SQL
from faregate.ledger.write import TX_BITS

ACTION = "erase"
_SCAN = {"statement_timeout": "0", "transaction_timeout": "0"}
"""Looking through all outcomes outlives the limits for decisions; no account is locked then."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was emptied: rows of each kind. `account` is what the account is called now."""

    subject: str
    account: str | None
    refs: int
    grants: int
    acts: int
    settings: int
    sign_ins: int
    """Rows of the gateway: e-mail address, password, invitations, own keys, names of orgs, what
    Lago has said of them, what they were answered to calls with an Idempotency-Key."""
    earlier: list[str]
    """Accounts that had this name before and lost it in an earlier erasure."""
    prices: int
    """Price versions that name them as who applied them: those never change."""

    @property
    def found(self) -> bool:
        """Tell whether there was anything to erase."""
        return any((self.account, self.grants, self.acts, self.settings, self.sign_ins))


async def erase(
    connection: asyncpg.Connection,
    keys: Keys,
    subject: str,
    *,
    by: str,
    names: Sequence[str] = (),
    force: bool = False,
) -> Erasure:
    """Erase `subject` (`user:<id>` or `org:<id>`) as the owner of the database; once is enough.

    `names` are others that they acted under (a login); their bare id is one already. Raises Rejected, unless `force` is said:
    `live_holds`, `debt_outstanding`, `not_announced`.
    """
    kind, _, bare = subject.partition(":")
    known = [subject, *([bare] if kind == "user" else []), *names]
    async with _locked(connection, subject) as account:
        if account is not None and not force:
            await _at_rest(connection, account["id"], account["debt"])
        low = (await connection.fetchval(SQL["next_tx"])) << TX_BITS
    refs = 0
    if account is not None:
        async with connection.transaction():
            for setting, value in _SCAN.items():
                await connection.execute(f"SET LOCAL {setting} = '{value}'")
            refs = _count(await connection.execute(SQL["erase_refs"], account["id"], 0))
    async with _locked(connection, subject) as account:
        if account is not None and not force:
            await _at_rest(connection, account["id"], account["debt"])
        done = await _erase(connection, keys, subject, known, account, refs, low)
        if done.found:
            await _log(connection, keys, by, done, account, forced=force)
    return done


@asynccontextmanager
async def _locked(
    connection: asyncpg.Connection, subject: str
) -> AsyncIterator[asyncpg.Record | None]:
    """Begin a transaction that has the account's lock; give its row, None when there is none."""
    async with connection.transaction():
        row = await connection.fetchrow(SQL["lock_person"], subject)
        if row and not await connection.fetchval(SQL["still_named"], row["id"], subject):
            row = None
        yield row


async def require_at_rest(connection: asyncpg.Connection, subject: str) -> None:
    """Raise Rejected, as `erase` would, while there are live holds, debt or facts to announce."""
    async with _locked(connection, subject) as account:
        if account is not None:
            await _at_rest(connection, account["id"], account["debt"])


async def _at_rest(connection: asyncpg.Connection, account_id: int, debt: int) -> None:
    holds = await connection.fetchval(SQL["live_holds"], account_id)
    if holds:
        raise Rejected("live_holds", f"{holds} of their pipelines are running and hold credits")
    if debt:
        raise Rejected("debt_outstanding", f"they owe {format_credits(debt)} credits")
    waiting = await connection.fetchval(SQL["unannounced"], account_id)
    if waiting:
        raise Rejected("not_announced", f"{waiting} facts about them wait for the relay")


async def _erase(
    connection: asyncpg.Connection,
    keys: Keys,
    subject: str,
    known: list[str],
    account: asyncpg.Record | None,
    refs: int,
    low: int,
) -> Erasure:
    await connection.execute(SQL["one_erasure"])  # two at a time could wait for each other
    earlier = await connection.fetch(SQL["erased_before"], UUID(keys.subject(subject)))
    grants = 0
    if account is not None:
        refs += _count(await connection.execute(SQL["erase_refs"], account["id"], low))
        grants += _count(await connection.execute(SQL["erase_own_grants"], account["id"]))
        await connection.execute(SQL["erase_name"], account["id"])
        await connection.execute(SQL["count_erasure"])
    actors = [UUID(keys.actor(name)) for name in known]
    refs += _count(await connection.execute(SQL["erase_acting"], actors))
    return Erasure(
        subject,
        erased(account["id"]) if account else None,
        refs,
        grants + _count(await connection.execute(SQL["erase_allocator"], known)),
        _count(await connection.execute(SQL["erase_actor"], known)),
        _count(await connection.execute(SQL["erase_setter"], known)),
        await _sign_ins(connection, keys, subject, known),
        [erased(row["account_id"]) for row in earlier],
        await connection.fetchval(SQL["appliers"], known),
    )


async def _sign_ins(
    connection: asyncpg.Connection, keys: Keys, subject: str, known: list[str]
) -> int:
    """Empty what the gateway knows of them beside the ledger."""
    kind, _, bare = subject.partition(":")
    user, org = (bare, None) if kind == "user" else (None, bare)
    gone = await connection.fetch(SQL["erase_sign_in"], user)
    emails = [row["email"] for row in gone]
    callers = [UUID(once.caller_key(keys, name)) for name in known]
    return len(gone) + sum(
        [
            _count(await connection.execute(SQL["erase_invitations"], emails, org)),
            _count(await connection.execute(SQL["erase_inviter"], known)),
            _count(await connection.execute(SQL["erase_founder"], known)),
            _count(await connection.execute(SQL["erase_keys"], subject, user)),
            _count(await connection.execute(SQL["erase_org_name"], org)),
            await connection.fetchval(SQL["erase_lago"], subject),
            await connection.fetchval(SQL["erase_calls"], callers, known, org),
        ]
    )


async def _log(
    connection: asyncpg.Connection,
    keys: Keys,
    by: str,
    done: Erasure,
    account: asyncpg.Record | None,
    *,
    forced: bool,
) -> None:
    """Log the act, in the transaction of what it did, without any name of theirs."""
    metadata = {"refs": done.refs, "grants": done.grants, "acts": done.acts, "forced": forced}
    act = audit.Act(by, ACTION, "erased", account["id"] if account else None, None, metadata)
    now = await connection.fetchval(STORE_SQL["now"])
    await audit.append(connection, keys, now, [act])


def _count(status: str) -> int:
    """Read the number of rows from a command's status: `UPDATE 3`."""
    return int(status.rpartition(" ")[2])
