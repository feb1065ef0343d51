"""The commands for credits, organizations and prices, as somebody at a terminal uses them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.helpers.forking import faregate
from tests.helpers.ledger import Ledger
from tests.helpers.processes import environment
from tests.helpers.servers import Stack, drop_database, fresh_database

from faregate.ledger.core import Rules
from faregate.ledger.database import make_pool
from faregate.ledger.store import open_store

pytestmark = pytest.mark.stack


class Terminal:
    """The command line on a database of its own."""

    def __init__(self, env: dict[str, str], url: str) -> None:
        self.env = env
        self.url = url

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*faregate(), *words], env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code).stdout)

    def used(self, **more: Any) -> None:
        """Charge usage, as the consumers would."""

        self._did(lambda ledger: ledger.usage(**more))

    def requested(self, pipeline_id: str, **more: Any) -> None:
        """Request a pipeline, as the consumers would."""
        self._did(lambda ledger: ledger.request(pipeline_id, **more))

    def _did(self, work: Callable[[Ledger], Awaitable[Any]]) -> None:
        async def do() -> None:
            pool = await make_pool(self.url, name="test", size=1)
            store = await open_store(pool, Rules(provisioning="manual"))
            await work(Ledger(store))
            pool.terminate()

        asyncio.run(do())


@pytest.fixture
def here(stack: Stack) -> Iterator[Terminal]:
    url = asyncio.run(fresh_database(stack.database))
    ours = environment(stack.kafka, url, "cli-credits.", welcome_milestones='{"essay": 2}')
    ours["FAREGATE_PROVISIONING"] = "auto"
    env = {k: v for k, v in os.environ.items() if not k.startswith("FAREGATE_")} | ours
    yield Terminal(env, url)
    asyncio.run(drop_database(stack.database, url))


def test_a_grant_with_terms_is_listed_with_them(here: Terminal) -> None:
    here.json("credits", "grant", "org:acme", "100")
    terms = ("--priority", "1", "--expires-in-days", "90", "--notes", "spring term")
    here.json("credits", "grant", "org:acme", "5", "--kind", "bonus", *terms)
    first, second = here.json("credits", "grants", "org:acme")
    assert (first["amount"], first["priority"], first["notes"]) == (5, 1, "spring term")
    assert (second["amount"], second["expires_at"]) == (100, None)
    text = here.run("credits", "grants", "org:acme").stdout
    assert "spring term" in text
    assert "never" in text
    assert here.json("credits", "grants", "org:acme", "--at", "2020-01-01") == []
    past = here.json("credits", "grant", "org:acme", "1", "--expires-at", "2020-01-01", code=1)
    assert past["error"] == "expires_in_the_past"


def test_a_charge_is_refunded_once_and_explained(here: Terminal) -> None:
    here.json("credits", "set", "org:acme", "10")
    here.used(user="ada", org="acme", units=4, usage_id="u1")
    who = ("credits", "refund", "org:acme", "--usage", "u1")
    done = here.json(*who, "--reason", "double_charge")
    assert (done["refunded_credits"], done["repeated"], done["balance"]) == (4, False, 10)
    assert here.json(*who)["repeated"] is True
    assert "refunded before" in here.run(*who).stdout
    (usage,) = here.json("explain", "u1")["usages"]
    assert usage["refund"]["credits"] == 4
    assert usage["grants"][0]["credits"] == 4
    assert "It was refunded at" in here.run("explain", "u1").stdout
    missing = here.json("credits", "refund", "user:bob", "--usage", "u1", code=1)
    assert (missing["error"], "history" in missing["fix"]) == ("unknown_charge", True)


def test_a_wrong_grant_is_taken_back_and_no_other(here: Terminal) -> None:
    here.json("credits", "grant", "org:acme", "100", "--expires-in-days", "3")
    here.json("credits", "grant", "org:acme", "10000", "--kind", "bonus")
    number = next(g["number"] for g in here.json("credits", "grants", "org:acme")
                  if g["amount"] == 10000)  # fmt: skip
    done = here.json("credits", "revoke", "org:acme", "--grant", str(number))
    assert (done["revoked_credits"], done["grant_held"], done["balance"]) == (10000, 0, 100)
    again = here.json("credits", "revoke", "org:acme", "--grant", str(number), code=1)
    assert (again["error"], "credits grants" in again["fix"]) == ("nothing_to_revoke", True)
    here.requested("p1", user="ada", org="acme")
    said = here.run("credits", "revoke", "org:acme", "--grant", "1").stdout
    assert "of it are held still" in said
    assert here.json("verify", "--without-checkpoints")["ok"] is True


def test_history_says_why_and_what_was_refunded(here: Terminal) -> None:
    here.json("credits", "set", "org:acme", "10")
    here.used(pipeline_id="p1", user="ada", org="acme", units=4, usage_id="u1")
    here.json("credits", "refund", "org:acme", "--usage", "u1", "--reason", "double_charge")
    here.json("credits", "tier", "org:acme", "starter")
    text = here.run("credits", "history", "org:acme").stdout
    what = {line.split()[3]: line.split()[8:] for line in text.splitlines()[1:]}
    assert what["usage"] == ["cj_assessment", "u1"]
    assert what["refund"] == ["u1", "double_charge"]
    assert what["adjustment"] == ["set_balance"]
    assert ["tier_change"] in what.values(), text
    found = {e["kind"]: e for e in here.json("credits", "history", "org:acme")}
    assert found["refund"]["usage_id"] == "u1"
    (act,) = [a for a in here.json("audit") if a["action"] == "refund"]
    assert found["refund"]["charge_id"] == act["metadata"]["charge_id"]
    story = here.run("explain", "p1").stdout
    assert "1 of them was refunded, 4 credits, so 0 credits of what was charged is left" in story
    assert "u1 was refunded by " in story
    assert "double_charge" in story.partition("The entries:")[2]


def test_a_period_that_ends_before_it_begins_is_refused_alike(here: Terminal) -> None:
    period = ("--from", "2026-02-01", "--to", "2026-01-01")
    for words in (
        ("orgs", "usage", "acme"),
        ("export", "--output", "/nonexistent/x.csv"),
        ("prices", "simulate", "--increment", "0.01"),
    ):
        done = here.json(*words, *period, code=2)
        assert done["error"] == "usage"
        assert done["message"] == "--to 2026-01-01 is not after --from 2026-02-01"
        assert "swap them" in done["fix"]
    here.json("orgs", "usage", "acme", "--from", "2026-01-01", "--to", "2026-01-01", code=2)
    here.json("orgs", "usage", "acme", "--from", "2026-01-01", "--to", "2026-01-02")


def test_what_is_still_to_come_is_not_answered(here: Terminal) -> None:
    here.json("credits", "grant", "org:acme", "5", "--expires-in-days", "1")
    for what in ("balance", "grants"):
        done = here.json("credits", what, "org:acme", "--at", "2990-01-01", code=2)
        assert (done["error"], "still to come" in done["message"]) == ("usage", True)
    now = datetime.now(UTC).isoformat()
    assert here.json("credits", "balance", "org:acme", "--at", now)["available"] == 5


def test_the_balance_of_a_name_that_nobody_used_says_so_beside_it(here: Terminal) -> None:
    here.json("credits", "grant", "org:nobody", "5")
    assert here.run("credits", "balance", "org:nobody").stderr == ""
    done = here.run("credits", "balance", "org:nobdy", "--json")
    assert json.loads(done.stdout)["balance"] == 0
    said = "org:nobdy has no entries: nobody has granted or used its credits"
    assert done.stderr.strip() == said
    assert here.run("credits", "history", "org:nobdy").stdout.strip() == said


def test_a_name_with_its_kind_twice_is_in_reach_where_events_made_it(here: Terminal) -> None:
    """Events may say user_id "user:ana"; that such an account was a slip is for people to find."""
    name, env = "user:user:ana", here.env
    here.env = env | {"FAREGATE_PROVISIONING": "manual"}
    for words in (("credits", "quota", name, "5"), ("orgs", "member", "acme", name)):
        assert "twice: did you mean user:ana?" in here.json(*words, code=2)["message"]
    assert "credits; did you mean user:ana?" in here.run("credits", "balance", name).stderr

    here.used(user="user:ana", units=2, usage_id="u1")
    assert here.json("credits", "balance", name)["debt"] == 2
    assert here.json("credits", "history", name)[0]["usage_id"] == "u1"
    assert "u1" in here.run("export", "--account", name).stdout
    assert here.json("credits", "refund", name, "--usage", "u1")["refunded_credits"] == 2
    assert here.json("credits", "set", name, "3")["balance"] == 3
    assert here.json("audit", "--account", name)[0]["action"] == "set_balance"
    here.json("erase", name, "--yes", "--force")
    assert here.json("credits", "history", name) == []
    assert "not UTF-8" in here.json("credits", "balance", "user:\udcff", code=2)["message"]


def test_verify_and_rebuild_count_alike(here: Terminal) -> None:
    here.json("credits", "set", "org:acme", "100")
    here.json("orgs", "allocate", "acme", "ada", "60")
    here.requested("p1", user="ada", org="acme")
    here.requested("p2", user="bob", org="acme", items=2)
    here.used(pipeline_id="p2", user="bob", org="acme", units=20)
    proof = here.json("verify", "--without-checkpoints")
    made = here.json("rebuild")
    assert made["accounts"] == proof["accounts"]
    empty = proof["notes"]["live_holds_used_up"]
    assert (proof["notes"]["live_holds"], empty, made["holds"]) == (2, 1, 1)
    note = "2 live holds reserve 45 credits; 1 of them nothing more, all of it was used"
    assert note in here.run("verify", "--without-checkpoints").stdout
    assert "1 hold with something reserved" in here.run("rebuild").stdout


def test_tier_quota_alerts_and_milestones_are_shown_and_set(here: Terminal) -> None:
    assert here.json("credits", "tier", "user:ada")["tier"] == "free"
    assert here.json("credits", "tier", "user:ada", "professional")["result"] == "changed"
    assert here.json("credits", "tier", "user:ada", "starter")["next_tier"] == "starter"
    assert here.json("credits", "tier", "user:ada", "starter", "--now")["tier"] == "starter"
    assert here.json("credits", "tier", "user:ada", "gold", code=1)["error"] == "unknown_tier"

    assert here.json("credits", "quota", "user:ada")["limit"] == 2000
    assert here.json("credits", "quota", "user:ada", "7")["limit"] == 7
    assert here.json("credits", "quota", "user:ada", "--as-tier")["limit"] == 2000
    assert "counted anew from" in here.run("credits", "quota", "user:ada").stdout

    here.json("credits", "alerts", "user:ada", "--low", "3")
    both = here.json("credits", "alerts", "user:ada", "--percent", "50")
    assert (both["low"], both["percent"], both["threshold"]) == (3, 50, 10)
    assert here.json("credits", "alerts", "user:ada", "--as-settings")["low"] is None

    here.used(user="bob", phase="spellcheck")  # manual there: bob is only known by now
    early = here.json("credits", "unlock", "user:bob", "essay", code=1)
    assert early["error"] == "not_provisioned"
    assert here.json("credits", "unlock", "user:bob", "nope", code=1)["error"] == (
        "unknown_milestone"
    )


def test_an_org_is_set_up_and_read(here: Terminal) -> None:
    here.json("credits", "set", "org:acme", "100")
    assert here.json("orgs", "policy", "acme")["policy"] == "pool"
    assert here.json("orgs", "policy", "org:acme", "allocated")["policy"] == "allocated"
    assert here.json("orgs", "member", "acme", "ada", "--role", "admin")["role"] == "admin"
    terms = ("--expires-at", "2990-01-01", "--notes", "spring")
    assert here.json("orgs", "allocate", "acme", "user:ada", "30", *terms)["remaining"] == 30
    assert here.json("orgs", "reclaim", "acme", "ada", "5")["remaining"] == 25
    here.used(user="ada", org="acme", units=7)
    (member,) = here.json("orgs", "members", "acme")
    assert [member[n] for n in ("user_id", "role", "used", "remaining")] == ["ada", "admin", 7, 18]
    found = here.json("orgs", "usage", "acme", "--group-by", "member,phase")
    assert found["rows"][0]["user_id"] == "ada"
    assert (found["total"]["charged"], found["total"]["net"]) == (7, 7)
    nothing = here.json("orgs", "usage", "acme", "--to", "2020-01-01")
    assert (nothing["rows"], nothing["total"]["charged"]) == ([], 0)
    assert here.json("orgs", "reclaim", "acme", "ada")["remaining"] == 0
    assert here.json("orgs", "member", "acme", "ada", "--role", "removed")["role"] == "removed"
    assert "no members" in here.run("orgs", "members", "acme").stdout
    assert here.json("orgs", "member", "acme", "ada", "--role", "removed", code=1)["error"] == (
        "not_a_member"
    )

    acts = here.json("audit", "--account", "org:acme")
    assert [a["action"] for a in acts[:3]] == ["set_member", "set_member", "allocate"]
    assert acts[0]["result"] == "refused: not_a_member"
    assert acts[2]["metadata"] == {"reclaimed": "all", "user_id": "ada"}
    assert len(here.json("audit", "--limit", "2")) == 2
    assert "refused: not_a_member" in here.run("audit").stdout


def test_the_increment_is_shown_and_changed(here: Terminal) -> None:
    found = here.json("prices", "increment")
    assert (found["increment"], found["allowed"]) == (0.1, [0.01, 0.1, 1.0])
    done = here.json("prices", "increment", "0.01")
    assert (done["increment"], done["old"], done["versions"]) == (0.01, 0.1, [2])
    assert here.json("prices", "show")["increment"] == 0.01
    for wrong in ("0.05", '"0.1"', "null", "NaN", "-1", "true"):
        refused = here.json("prices", "increment", wrong, code=2)
        assert "0.01, 0.1, 1" in refused["message"]
    assert here.json("audit", "--limit", "1")[0]["metadata"]["new"] == 0.01


def test_a_book_with_another_increment_says_how_to_change_it(here: Terminal, tmp_path: Any) -> None:
    document = here.json("prices", "show") | {"increment": 1.0}
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(document))
    refused = here.json("prices", "apply", str(file), code=1)
    assert refused["error"] == "increment_differs"
    assert "faregate prices increment" in refused["fix"]
    here.json("prices", "increment", "1.0")
    assert here.json("prices", "apply", str(file))["version"] == 3


def test_models_and_tiers_are_shown_and_explained(here: Terminal) -> None:
    shown = here.run("prices", "show").stdout
    assert "openai/gpt-4o-mini" in shown
    assert "professional" in shown
    words = ("prices", "explain", "gpt-4o-mini", "--input-tokens", "400")
    call = here.json(*words)
    assert (call["required_credits"], call["vendor_cost_usd"]) == (0.1, 0.00006)
    text = here.run(*words).stdout
    assert "$0.00006; x margin 1.5 = $0.00009; / $0.01 a credit = 0.009; up to the next 0.1" in text
    flat = here.json(
        "prices", "explain", "gpt-4", "--input-tokens", "600", "--output-tokens", "400"
    )
    assert flat["required_credits"] == 480
    assert here.json("prices", "explain", "gpt-9", "--input-tokens", "1", code=1)["error"] == (
        "unknown_price"
    )
