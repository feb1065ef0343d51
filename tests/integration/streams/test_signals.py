"""What each stream says, on real Kafka, with its state in RocksDB. One worker runs all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from time import time

import pytest
from aiokafka import AIOKafkaProducer
from tests.helpers.kafka import Raw
from tests.helpers.streams import Account, Streams, Worker, denial, record, registration

from faregate.events import Event

pytestmark = pytest.mark.stack

Found = Sequence[Event]


def reached(field: str, value: object) -> Callable[[Found], bool]:
    return lambda found: bool(found) and found[-1].data[field] == value


def ago(**spans: float) -> datetime:
    return datetime.now(UTC) - timedelta(**spans)


# -- burn ------------------------------------------------------------------------------------------


def test_usage_becomes_a_rate_and_a_runway(streams: Streams, all_streams: Worker) -> None:
    acme = Account("org:acme")
    streams.feed(acme.grant(1000), *(acme.usage(10) for _ in range(6)))
    last = streams.until("BurnRateV1", reached("sequence", 7), account="org:acme")[-1].data
    assert last["available"] == 940
    assert 60 <= last["per_hour"] <= 90  # between 40 and 60 minutes of the window have passed
    assert 60 <= last["per_day"] <= 120
    assert 60 <= last["per_minute"] <= 120
    assert last["runway_s"] == pytest.approx(940 / last["per_hour"] * 3600, rel=0.01)


def test_a_late_event_counts_where_it_happened_and_a_repeat_nowhere(
    streams: Streams, all_streams: Worker
) -> None:
    acme = Account("org:late")
    records = [acme.grant(1000, ago(hours=5))]
    records += [acme.usage(7, ago(minutes=30)), acme.usage(5, ago(hours=2)), acme.usage(3)]
    streams.feed(*records, *records[1:], *records[2:3])
    last = streams.until("BurnRateV1", reached("sequence", 4), account="org:late")[-1].data
    streams.feed(acme.grant(1))  # everything before has been read when this has
    last = streams.until("BurnRateV1", reached("sequence", 5), account="org:late")[-1].data
    assert 3 <= last["per_minute"] <= 6
    assert 10 <= last["per_hour"] <= 15
    assert 15 <= last["per_day"] <= 30


def test_a_low_runway_is_said_once(streams: Streams, all_streams: Worker) -> None:
    acme = Account("org:low")
    streams.feed(acme.grant(100), acme.usage(1), acme.usage(40), acme.usage(40), acme.usage(5))
    (low,) = streams.until("RunwayLowV1", account="org:low")
    assert low.data["sequence"] == 3
    assert low.data["threshold_s"] == 14_400
    assert low.data["runway_s"] < 14_400
    streams.feed(acme.grant(10_000), acme.usage(1), acme.entry("adjustment", -10_000))
    streams.until("BurnRateV1", reached("sequence", 8), account="org:low")
    streams.feed(acme.usage(1))
    assert len(streams.until("RunwayLowV1", lambda f: len(f) == 2, account="org:low")) == 2


# -- denials ---------------------------------------------------------------------------------------


def test_denials_have_rates_and_a_spike_is_said_once(streams: Streams, all_streams: Worker) -> None:
    many = [denial("org:denied") for _ in range(6)]
    other = denial("org:denied", reason="quota_exceeded", pipeline="cj_assessment")
    quiet = denial("user:bob")
    streams.feed(*many, other, *many, quiet)  # each twice: repeats count once
    rate = streams.until("DenialRateV1", reached("denials", 7), account="org:denied")[-1].data
    assert rate["reasons"] == {"insufficient_credits": 6, "quota_exceeded": 1}
    assert rate["pipelines"] == {"nlp": 6, "cj_assessment": 1}
    (spike,) = streams.until("DenialSpikeV1", account="org:denied")
    assert spike.data["factor"] == spike.data["denials"] == 5
    streams.until("DenialRateV1", reached("denials", 1), account="user:bob")
    assert streams.said("DenialSpikeV1", account="user:bob") == []


def test_a_usual_number_of_denials_is_no_spike(streams: Streams, all_streams: Worker) -> None:
    for hours in range(12, 0, -1):
        streams.feed(*(denial("org:usual", ago(hours=hours)) for _ in range(4)))
    streams.feed(*(denial("org:usual") for _ in range(8)))
    last = streams.until("DenialRateV1", reached("denials", 8), account="org:usual")[-1].data
    assert 3 < last["baseline"] <= 4
    assert streams.said("DenialSpikeV1", account="org:usual") == []
    streams.feed(*(denial("org:usual") for _ in range(5)))
    (spike,) = streams.until("DenialSpikeV1", account="org:usual")
    assert spike.data["factor"] > 3


# -- attribution -----------------------------------------------------------------------------------


def test_charges_are_attributed_and_days_that_are_over_are_closed(
    streams: Streams, all_streams: Worker
) -> None:
    acme = Account("org:who")
    yesterday = datetime.now(UTC).replace(hour=0, minute=0, second=0) - timedelta(hours=1)
    records = [
        acme.grant(1000, yesterday),
        acme.usage(4.5, yesterday, user_id="ada", phase="nlp"),
        acme.usage(0.25, yesterday, user_id="ben", model="gpt-4o-mini"),
        acme.usage(2, user_id="ada", phase="nlp"),
    ]
    streams.feed(*records, *records)
    closed = streams.until("AttributionV1", account="org:who", window="day", closed=True)[-1].data
    assert (closed["total"], closed["events"]) == (4.75, 2)
    assert closed["users"] == [
        {"name": "ada", "credits": 4.5, "events": 1},
        {"name": "ben", "credits": 0.25, "events": 1},
    ]
    assert closed["models"] == [{"name": "gpt-4o-mini", "credits": 0.25, "events": 1}]
    assert closed["phases"] == [{"name": "nlp", "credits": 4.5, "events": 1}]
    for window in ("hour", "day"):
        found = streams.until("AttributionV1", account="org:who", window=window, closed=False)
        assert found[-1].data["total"] == 2


# -- fraud -----------------------------------------------------------------------------------------


def test_many_registrations_of_a_domain_or_a_referrer_are_suspicious(
    streams: Streams, all_streams: Worker
) -> None:
    users = [registration(f"bot-{n}", email=f"bot-{n}@Throwaway.example") for n in range(5)]
    come = [registration(f"new-{n}", referral="spring-sale") for n in range(4)]
    usual = [registration(f"g-{n}", email=f"g-{n}@gmail.com") for n in range(9)]
    streams.feed(*users, *users, *usual, *come)
    about = "domain:throwaway.example"
    found = streams.until("FraudSuspectedV1", lambda f: len(f) == 2, account=about)
    assert [e.data["count"] for e in found] == [4, 5]
    assert len({e.data["case_id"] for e in found}) == 1
    assert "user:bot-0" in found[0].data["users"]
    assert found[0].data["rule"] == "many_registrations"
    (sale,) = streams.until("FraudSuspectedV1", account="referral:spring-sale")
    assert sale.data["count"] == 4
    assert streams.said("FraudSuspectedV1", account="domain:gmail.com") == []


def test_what_a_transaction_took_back_is_not_counted(streams: Streams, all_streams: Worker) -> None:
    async def take_back(records: list[Raw]) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=streams.kafka, transactional_id="back")
        async with producer:
            await producer.begin_transaction()
            for r in records:
                await producer.send_and_wait(streams.prefix + r.topic, r.value, r.key)
            await producer.abort_transaction()

    asyncio.run(take_back([registration(f"b-{n}", email=f"{n}@back.example") for n in range(5)]))
    streams.feed(*(registration(f"c-{n}", email=f"{n}@come.example") for n in range(4)))
    streams.until("FraudSuspectedV1", account="domain:come.example")
    assert streams.said("FraudSuspectedV1", account="domain:back.example") == []


def test_a_trial_that_is_drained_at_once_is_suspicious(
    streams: Streams, all_streams: Worker
) -> None:
    quick, slow, paid = Account("user:quick"), Account("user:slow"), Account("user:paid")
    streams.feed(
        quick.grant(5, reason="welcome"), quick.usage(4), quick.usage(0.6),
        slow.grant(5, ago(minutes=30), reason="welcome"), slow.usage(5),
        paid.grant(5, reason="invoice"), paid.usage(5),
    )  # fmt: skip
    (found,) = streams.until("FraudSuspectedV1", account="user:quick")
    assert found.data["rule"] == "trial_drained"
    assert found.data["credits"] == 4.6
    streams.until("BurnRateV1", account="user:paid")
    assert streams.said("FraudSuspectedV1", account="user:slow") == []
    assert streams.said("FraudSuspectedV1", account="user:paid") == []


def test_a_ring_of_referrals_is_found_across_partitions(
    streams: Streams, all_streams: Worker
) -> None:
    ring = ["r-a", "r-b", "r-c", "r-d"]
    pairs = zip(ring, [*ring[1:], ring[0]], strict=True)
    streams.feed(*(registration(user, referral=f"user:{sender}") for user, sender in pairs))
    found = streams.until("FraudSuspectedV1", account="user:r-a", rule="referral_ring")[0].data
    assert found["users"] == [f"user:{user}" for user in ring]
    streams.feed(registration("r-x", referral="user:r-a"))  # comes to the ring, is not of it
    streams.feed(*(registration(f"mark-{n}", referral="mark") for n in range(4)))
    streams.until("FraudSuspectedV1", account="referral:mark")
    cases = {e.data["case_id"] for e in streams.said("FraudSuspectedV1", rule="referral_ring")}
    assert cases == {found["case_id"]}


# -- reconcile -------------------------------------------------------------------------------------


def test_what_does_not_add_up_is_an_alert_within_a_minute(
    streams: Streams, all_streams: Worker
) -> None:
    began = time()
    right, gap, sums = Account("org:right"), Account("org:gap"), Account("org:sums")
    twice, point, ahead = Account("org:twice"), Account("org:point"), Account("org:ahead")
    records = [right.grant(100), *(right.usage(1) for _ in range(5)), right.checkpoint()]
    records += records[2:4]  # announced again, as it was
    records += [gap.grant(100), gap.usage(1)]
    gap.usage(1), gap.usage(1)
    records += [gap.usage(1)]
    records += [sums.grant(100), sums.usage(1, balance=98, available=98)]
    records += [twice.grant(100), twice.usage(1)]
    twice.sequence -= 1
    records += [twice.usage(2)]
    records += [point.grant(100), point.usage(1), point.checkpoint(held=1)]
    records += [ahead.grant(100)]
    ahead.usage(1)
    records += [ahead.checkpoint()]
    member = Account("member:1/2", sequence=9, balance=5)
    erased = Account("erased:7", sequence=9, balance=5)
    streams.feed(*records, member.checkpoint(), erased.checkpoint())

    def alert(account: str) -> dict[str, object]:
        (found,) = streams.until("ReconcileAlertV1", account=account)
        return found.data

    assert {k: alert("org:gap")[k] for k in ("problem", "sequence", "through")} == {
        "problem": "gap", "sequence": 3, "through": 4,
    }  # fmt: skip
    assert alert("org:sums")["problem"] == "wrong_sum"
    assert alert("org:sums")["expected"] == {"balance": 99, "held": 0, "debt": 0}
    assert alert("org:sums")["found"] == {"balance": 98, "held": 0, "debt": 0}
    assert alert("org:twice")["problem"] == "repeat_differs"
    assert alert("org:point")["problem"] == "checkpoint_differs"
    assert alert("org:ahead")["problem"] == "not_announced"
    assert time() - began < 60
    accounts = {e.data["account"] for e in streams.said("ReconcileAlertV1")}
    assert not accounts & {"org:right", "member:1/2", "erased:7"}


# -- what is no event ------------------------------------------------------------------------------


def test_bad_records_are_skipped_logged_and_counted(streams: Streams, all_streams: Worker) -> None:
    acme = Account("org:bad")
    grant = acme.grant(10)
    for topic in ("credits.ledger", "credits.checkpoints", "pipeline.denied", "users.registered"):
        streams.feed(
            Raw(topic, b"no JSON \xff", b"org:bad"),
            Raw(topic, None, b"org:bad"),
            Raw(topic, b'{"specversion": "1.0"}', None),
            Raw(topic, record("PipelineFinishedV1", {"pipeline_id": "p"}, "k", "1").value, b"k"),
            Raw(
                topic,
                record("CreditsLowV1", {"account": "a", "balance": 1, "available": 1, "debt": 0},
                       "k", "2").value,
                b"k",
            ),
        )  # fmt: skip
    wrong = [acme.usage(1, balance="9"), acme.usage(1, sequence=-1)]
    streams.feed(grant, *wrong, acme.usage(1, sequence=2, balance=9, available=9))
    streams.until("BurnRateV1", reached("sequence", 2), account="org:bad")
    streams.feed(denial("org:bad"))
    streams.until("DenialRateV1", account="org:bad")
    skipped = all_streams.logged("record_skipped")
    for stream, count in {"burn": 7, "denials": 5, "reconcile": 12, "fraud": 12}.items():
        lines = [line for line in skipped if line["stream"] == stream]
        assert [line["skipped"] for line in lines] == list(range(1, count + 1)), stream
    errors = {line["error"] for line in skipped}
    assert errors == {
        "invalid_json", "empty_record", "invalid_envelope", "invalid_data", "unexpected_type",
    }  # fmt: skip
