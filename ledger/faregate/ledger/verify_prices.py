"""Usage of models is priced again, by the version that its entry names (phases: `prices`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import asyncpg

from faregate.ledger.core.prices import Book, Books, InvalidBook, parse_book, parse_increment
from faregate.ledger.verify_report import Findings
from faregate.ledger.verify_rows import SQL
from faregate.ledger.verify_streams import Cursor, Row

_INCREMENT = "credit_minimum_increment"


async def check_prices(
    connection: asyncpg.Connection, findings: Findings, since: datetime | None
) -> None:
    """Check the books, the setting that repeats one of their numbers, and what models cost."""
    rows = await connection.fetch(SQL["price_versions"])
    books = _books(findings, rows)
    if rows:
        values = {r["key"]: r["value"] for r in await connection.fetch(SQL["settings"])}
        _compare_increment(findings, values, Books(books).in_force(rows[0]["now"]))
    usage = Cursor(connection, SQL["model_usage"], since)
    while chunk := await usage.chunk():
        for row in chunk:
            wrong = _wrong_price(row, books)
            if wrong:
                where = f"sequence {row['sequence']} (id {row['id']})"
                findings.add("price", "entries", where, wrong, row["account_id"])


def _books(findings: Findings, rows: list[Row]) -> dict[int, Book]:
    books = {}
    for row in rows:
        try:
            document = json.loads(row["book"])
            books[row["version"]] = parse_book(row["version"], row["effective_from"], document)
        except (InvalidBook, TypeError, AttributeError) as error:
            where, message = f"version {row['version']}", f"it is no price book: {error}"
            findings.add("price", "price_versions", where, message)
    return books


def _compare_increment(findings: Findings, values: Mapping[str, str], book: Book | None) -> None:
    value = values.get(_INCREMENT)
    try:
        micro = parse_increment(json.loads(value)) if value is not None else None
    except ValueError:
        micro = None
    if book is not None and micro != book.increment:
        message = (
            f"it is {value}, the price version in force ({book.version}) rounds up to "
            f"{book.increment} micro-credits"
        )
        findings.add("setting", "system_settings", _INCREMENT, message)


def _wrong_price(row: Row, books: Mapping[int, Book]) -> str | None:
    charged = row["debt_delta"] - row["amount"]
    if row["byok"]:
        return f"it cost {charged} with the caller's own key" if charged else None
    book = books.get(row["price_version"])
    if book is None:  # a caller named the cost, or `cause` says that the version is missing
        return None
    named = row["command"] is not None
    price = book.model(row["provider"], row["model"])
    if named and row["tier"] is None and price is not None and price.kind == "tier_rate":
        return None  # a cost that a caller waited for: the tier at that moment is not kept
    should = _cost(book, row)
    if should == charged:
        return None
    what = f"{row['model']}: {row['input_tokens'] or 0} + {row['output_tokens'] or 0} tokens"
    return (
        f"{what} cost {charged} micro-credits here, price version {book.version} makes it "
        f"{'nothing known' if should is None else should}"
    )


def _cost(book: Book, row: Mapping[str, Any]) -> int | None:
    tokens = row["input_tokens"] or 0, row["output_tokens"] or 0
    try:
        return book.tokens_cost(row["provider"], row["model"], *tokens, row["tier"] or "")
    except ValueError:  # less than no tokens
        return None
