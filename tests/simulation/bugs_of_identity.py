"""Bugs of what makes an event the same event, of locks, offsets and the outbox (rules 3 to 7)."""

from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from typing import Any

from tests.simulation import database
from tests.simulation.database import Conflict, Database
from tests.simulation.downstream import Downstream
from tests.simulation.planting import both, bug, everywhere, method, nothing
from tests.simulation.world import World

from faregate.ledger.core import Refund, Seen, Usage

Plant = AbstractContextManager[Any]


def _only_event_ids(_: Any, self: Database, __: Any, decision: Any) -> None:
    if any(o.identity.event_key in self.seen for o in decision.outcomes):
        raise Conflict


@bug
def the_dedupe_on_usage_ids_is_dropped() -> Plant:
    def known(original: Any, work: Any, command: Any) -> Any:
        if isinstance(command, Usage):
            identity = replace(command.identity, usage_key=None)
            return original(work, replace(command, identity=identity))
        return original(work, command)

    return both(everywhere("_known", known), method(Database, "check_unique", _only_event_ids))


@bug
def the_dedupe_on_event_ids_is_dropped() -> Plant:
    def known(original: Any, work: Any, command: Any) -> Any:
        return None if command.identity.usage_key is None else original(work, command)

    return both(everywhere("_known", known), method(Database, "check_unique", nothing))


@bug
def other_content_is_taken_for_a_duplicate() -> Plant:
    def known(_: Any, work: Any, command: Any) -> Any:
        return work.state.seen.get(command.identity.event_key)

    return everywhere("_known", known)


@bug
def a_charge_is_refunded_twice() -> Plant:
    def known(original: Any, work: Any, command: Any) -> Any:
        if isinstance(command, Refund):
            return work.state.seen.get(command.identity.event_key)
        return original(work, command)

    return both(everywhere("_known", known), method(Database, "check_unique", _only_event_ids))


@bug
def a_duplicate_counts_as_settled_usage() -> Plant:
    def known(original: Any, work: Any, command: Any) -> Any:
        seen = original(work, command)
        if isinstance(seen, Seen) and isinstance(command, Usage) and command.pipeline_key:
            pipeline = work.state.pipelines.get(command.pipeline_key)
            if pipeline and pipeline.hold and pipeline.hold.state != "closed":
                hold = replace(pipeline.hold, usage_settled=pipeline.hold.usage_settled + 1)
                work.put(replace(pipeline, hold=hold))
        return seen

    return everywhere("_known", known)


@bug
def what_is_refused_leaves_a_trace() -> Plant:
    def undo(_: Any, work: Any, written: int) -> None:
        del work.entries[written:]

    from faregate.ledger.core.posting import Work

    return method(Work, "undo", undo)


# Locks and transactions.


@bug
def accounts_are_not_locked() -> Plant:
    return method(Database, "lock", lambda _, self, __, needs: self.wanted(needs))


@bug
def the_payer_of_a_hold_is_not_locked() -> Plant:
    def lock(_: Any, self: Database, owner: object, needs: Any) -> Any:
        named = set(needs.subjects)
        if not named.isdisjoint(self.locks):
            return None
        for subject in named:
            self.locks[subject] = owner
        return self.wanted(needs)

    return method(Database, "lock", lock)


@bug
def a_crash_leaves_half_a_transaction() -> Plant:
    def write(original: Any, self: World, loaded: Any, decision: Any, *rest: Any) -> Any:
        self.db.put_accounts(decision)
        yield True
        yield from original(self, loaded, decision, *rest)

    return method(World, "write", write)


@bug
def a_plan_that_changed_without_an_entry_is_not_written() -> Plant:
    def put(original: Any, self: Database, decision: Any) -> None:
        original(self, replace(decision, planned=set()))

    return method(Database, "put_accounts", put)


@bug
def a_change_of_a_hold_is_not_written() -> Plant:
    def put(original: Any, self: Database, decision: Any) -> None:
        new = {o.identity.event_key for o in decision.outcomes}
        kept = {k: p for k, p in decision.pipelines.items() if p.cause in new}
        original(self, replace(decision, pipelines=kept))

    return method(Database, "put_pipelines", put)


# Offsets.


@bug
def offsets_are_committed_before_the_money() -> Plant:
    def transact(original: Any, self: World, commands: Any, partition: Any, position: int) -> Any:
        if partition is not None:
            self.db.put_offset(partition, position)
        yield True
        yield from original(self, commands, partition, position)

    return method(World, "transact", transact)


@bug
def a_consumer_that_comes_back_starts_at_the_end() -> Plant:
    return method(
        World, "first_position", lambda _, self, partition: len(self.logs.get(partition, ()))
    )


@bug
def the_offset_is_one_too_far() -> Plant:
    def put(original: Any, self: Database, partition: int, position: int) -> None:
        original(self, partition, position + 1)

    return method(Database, "put_offset", put)


@bug
def a_refused_event_is_dropped() -> Plant:
    return method(World, "publish_dead_letters", nothing)


# The relay.


@bug
def the_relay_deletes_before_it_publishes() -> Plant:
    def relay(_: Any, self: World) -> Any:
        while True:
            waiting = {n: self.db.outbox.pop(n) for n in self.next_rows()}
            yield bool(waiting)
            for number, row in waiting.items():
                for record in self.downstream.records_of(number, row):
                    self.downstream.receive(record)
                yield True

    return method(World, "relay", relay)


@bug
def the_relay_publishes_the_newest_first() -> Plant:
    return method(World, "next_rows", lambda original, self: original(self)[::-1])


@bug
def an_announcement_has_a_new_id_each_time() -> Plant:
    numbers = count()

    def records_of(original: Any, self: Downstream, number: int, row: Any) -> Any:
        return [f._replace(id=(*f.id, next(numbers))) for f in original(self, number, row)]

    return method(Downstream, "records_of", records_of)


@bug
def some_transactions_are_not_announced() -> Plant:
    def put(original: Any, self: Database, decision: Any) -> None:
        if len(decision.outcomes) == len(decision.results):
            original(self, decision)

    return method(Database, "put_outbox", put)


@bug
def the_sweeper_does_not_know_when_grants_expire() -> Plant:
    from unittest.mock import patch

    return patch.object(database, "due_at", lambda account, **_: None)
