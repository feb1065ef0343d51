"""Keyed hashes: different things never share a key, and without the secret nothing matches."""

import json
from collections.abc import Callable
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faregate.ledger.keys import Keys
from faregate.ledger.write import canonical

SECRET, OTHER = b"k" * 32, b"l" * 32
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
EACH: dict[str, Callable[[Keys], bytes]] = {
    "event": lambda k: k.event("a", "b"),
    "usage": lambda k: k.usage("a", "b"),
    "internal": lambda k: k.internal("a", "b"),
    "pipeline": lambda k: k.pipeline("a"),
    "batch": lambda k: k.batch("a"),
    "subject": lambda k: k.subject("a"),
    "internal of one": lambda k: k.internal("a"),
    "seal": lambda k: k.seal("a"),
    "fingerprint": lambda k: k.fingerprint("a", {}),
}


@pytest.mark.parametrize("make", EACH.values(), ids=EACH)
def test_a_key_has_16_bytes_and_is_always_the_same(make: Callable[[Keys], bytes]) -> None:
    keys = Keys(SECRET)
    assert len(make(keys)) == 16
    assert make(keys) == make(keys) == make(Keys(SECRET))


@pytest.mark.parametrize("make", EACH.values(), ids=EACH)
def test_a_key_depends_on_the_secret(make: Callable[[Keys], bytes]) -> None:
    assert make(Keys(SECRET)) != make(Keys(OTHER))


def test_kinds_are_independent() -> None:
    """The same words name different things: an event is not a usage, a pipeline not a batch."""
    keys = Keys(SECRET)
    assert len({make(keys) for make in EACH.values()}) == len(EACH)


def test_making_one_key_leaves_no_trace_in_the_next() -> None:
    keys = Keys(SECRET)
    keys.event("x", "y")
    assert keys.event("a", "b") == Keys(SECRET).event("a", "b")


def test_parts_are_length_prefixed() -> None:
    keys = Keys(SECRET)
    splits = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc")]
    assert len({keys.event(*split) for split in splits}) == len(splits)
    assert keys.internal("ab") != keys.internal("a", "b")
    assert keys.internal() != keys.internal("")


def test_a_source_cannot_write_a_length_prefix_itself() -> None:
    keys = Keys(SECRET)
    assert keys.event("a", "b") != keys.event("a\0\0\0\x01b", "")
    assert keys.internal("a", "b") != keys.internal("a\0\0\0\x01b")


@settings(deadline=None, print_blob=True)
@given(st.lists(st.lists(texts, max_size=3).map(tuple), unique=True, max_size=6))
def test_different_parts_make_different_keys(many: list[tuple[str, ...]]) -> None:
    keys = Keys(SECRET)
    assert len({keys.internal(*parts) for parts in many}) == len(many)


def test_length_counts_bytes_not_characters() -> None:
    keys = Keys(SECRET)
    assert keys.event("é", "x") != keys.event("e", "\u0301x")


def test_a_seal_covers_every_column_its_kind_and_its_place() -> None:
    keys = Keys(SECRET)
    rows: list[tuple[object, ...]] = [
        (),
        (None,),
        ("",),
        (0,),
        ("0",),
        ("null",),
        ("a", "b"),
        ("b", "a"),
        ("ab",),
        ('a","b',),
        ("a", None, "b"),
        (1, 23),
        (12, 3),
    ]
    assert len({keys.seal(*row) for row in rows}) == len(rows)


class TestFingerprint:
    def test_the_order_of_fields_does_not_matter(self) -> None:
        keys = Keys(SECRET)
        one = keys.fingerprint("T", {"a": 1, "b": {"c": 2, "d": 3}})
        assert one == keys.fingerprint("T", {"b": {"d": 3, "c": 2}, "a": 1})

    @pytest.mark.parametrize(
        "data",
        [
            {"a": 2},
            {"a": "1"},
            {"a": None},
            {"a": True},
            {"a": [1]},
            {"b": 1},
            {"a": 1, "b": None},
            {"a": 1, "unknown": 1},
            {},
        ],
    )
    def test_any_other_content_has_another_one(self, data: dict[str, object]) -> None:
        keys = Keys(SECRET)
        assert keys.fingerprint("T", {"a": 1}) != keys.fingerprint("T", data)

    def test_the_order_of_a_list_matters(self) -> None:
        keys = Keys(SECRET)
        assert keys.fingerprint("T", {"a": [1, 2]}) != keys.fingerprint("T", {"a": [2, 1]})

    def test_the_type_is_part_of_it(self) -> None:
        keys = Keys(SECRET)
        assert keys.fingerprint("TV1", {"a": 1}) != keys.fingerprint("TV2", {"a": 1})

    @settings(deadline=None, print_blob=True)
    @given(st.dictionaries(texts, json_values, max_size=4))
    def test_every_json_object_has_one(self, data: dict[str, object]) -> None:
        shuffled = dict(sorted(data.items(), reverse=True))
        keys = Keys(SECRET)
        assert keys.fingerprint("T", data) == keys.fingerprint("T", shuffled)
        assert keys.fingerprint("T", data) != keys.fingerprint("T", {**data, "\0": 0})


@pytest.mark.parametrize(
    "said", ["plain", 'a "quote" \\ and /', "é \x7f \n \u2028 \N{GRINNING FACE}"]
)
def test_a_seal_covers_the_same_bytes_for_ever(said: str) -> None:
    """Those of compact JSON; what is not ASCII is escaped in the body, which is a text in it."""
    columns = (2**62, "00ff", None, "usage", canonical({"said": said, "n": -1}), 0)
    covered = json.dumps(columns, separators=(",", ":")).encode()
    expected = blake2b(
        len(covered).to_bytes(4, "big") + covered, digest_size=16, key=b"k" * 32, person=b"seal"
    )
    assert Keys(b"k" * 32).seal(*columns) == expected.digest()
