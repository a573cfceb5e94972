"""The checker finds every kind of lie in made-up histories, and none in good ones."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.outage.history import (
    ACKNOWLEDGED,
    REFUSED,
    UNKNOWN,
    History,
    Listed,
    Seen,
    Write,
    longest_silence,
    violations,
)


def write(
    key: str, act: str, value: str, at: float, revision: int = 0, outcome: str = ACKNOWLEDGED
) -> Write:
    return Write(key, act, value, outcome, at, at + 0.5, revision)


def good() -> History:
    """a is made and changed, b made and deleted; all is seen."""
    return History(
        start=Listed(10),
        end=Listed(20, {"a": "a2"}),
        writes=[
            write("a", "create", "a1", 1, 11),
            write("b", "create", "b1", 2, 12),
            write("a", "update", "a2", 3, 14),
            write("b", "delete", "", 4),
        ],
        seen=[
            Seen("ADDED", 11, "a", "a1"),
            Seen("ADDED", 12, "b", "b1"),
            Seen("BOOKMARK", 13),
            Seen("MODIFIED", 14, "a", "a2"),
            Seen("DELETED", 15, "b", "b1"),
            Seen("BOOKMARK", 20),
        ],
    )


def test_a_good_history_has_no_violation() -> None:
    assert violations(good()) == []


@pytest.mark.parametrize("applied", [False, True])
def test_what_is_unknown_may_have_happened_or_not(applied: bool) -> None:
    history = good()
    history.writes.append(write("a", "update", "a3", 6, 0, UNKNOWN))
    if applied:
        history.end = Listed(20, {"a": "a3"})
        history.seen.insert(5, Seen("MODIFIED", 16, "a", "a3"))
    assert violations(history) == []


def test_what_is_unknown_cannot_happen_after_a_later_acknowledgement() -> None:
    history = good()
    history.writes[2:2] = [write("a", "update", "a-late", 2.2, 0, UNKNOWN)]
    history.end = Listed(20, {"a": "a-late"})
    assert any("lost: update a = a2" in line for line in violations(history))


def test_a_lost_write_is_found() -> None:
    history = good()
    history.end = Listed(20, {"a": "a1"})
    assert any("a: lost: update a = a2" in line for line in violations(history))
    history.end = Listed(20, {})
    assert any("nothing is there" in line for line in violations(history))


def test_a_resurrected_delete_is_found() -> None:
    history = good()
    history.end = Listed(20, {"a": "a2", "b": "b1"})
    assert any("b: resurrected: delete b" in line for line in violations(history))


def test_a_refused_write_that_is_there_is_found() -> None:
    history = good()
    history.writes.append(write("a", "update", "a3", 6, 0, REFUSED))
    history.end = Listed(20, {"a": "a3"})
    history.seen.insert(5, Seen("MODIFIED", 16, "a", "a3"))
    found = violations(history)
    assert any("a: refused, and yet there" in line for line in found)
    assert any("an event of what was refused" in line for line in found)


def test_an_object_from_nowhere_is_found() -> None:
    history = good()
    history.end = Listed(20, {"a": "a2", "c": "c1"})
    assert any("c: from nowhere" in line for line in violations(history))


@pytest.mark.parametrize("missing", [0, 1, 3, 4])
def test_a_gap_in_the_watch_is_found(missing: int) -> None:
    history = good()
    del history.seen[missing]
    assert any("gap: no event of" in line for line in violations(history))


def test_a_repeated_event_is_found() -> None:
    history = good()
    history.seen.insert(4, history.seen[3])
    assert any("disorder or repetition" in line for line in violations(history))


def test_disorder_is_found() -> None:
    history = good()
    history.seen[0], history.seen[1] = history.seen[1], history.seen[0]
    assert any("disorder or repetition" in line for line in violations(history))


def test_a_bookmark_that_runs_ahead_of_its_events_is_found() -> None:
    history = good()
    history.seen[2] = Seen("BOOKMARK", 14)
    assert any("disorder or repetition: MODIFIED a" in line for line in violations(history))


def test_a_revision_that_goes_back_is_found() -> None:
    history = good()
    history.writes[2] = dataclasses.replace(history.writes[2], revision=9)
    found = violations(history)
    assert any("revisions go back: update a = a2" in line for line in found)
    assert any("says revision 14" in line for line in found)


def test_a_list_older_than_what_was_acknowledged_is_found() -> None:
    history = good()
    history.end = Listed(13, {"a": "a2"})
    assert any("the last list is at 13" in line for line in violations(history))


def test_overlapping_writes_may_have_revisions_in_any_order() -> None:
    history = good()
    history.writes[0] = dataclasses.replace(history.writes[0], ended=9.0, revision=15)
    history.seen[0] = Seen("BOOKMARK", 11)
    history.seen.insert(4, Seen("ADDED", 15, "a", "a1"))
    assert not any("go back" in line for line in violations(history))


def test_events_that_make_no_sense_are_found() -> None:
    history = good()
    history.seen[0] = Seen("MODIFIED", 11, "a", "a1")
    assert any("the key was not there" in line for line in violations(history))
    history.seen[0] = Seen("ADDED", 11, "a", "a1")
    history.seen[3] = Seen("ADDED", 14, "a", "a2")
    assert any("the key was there already" in line for line in violations(history))


def test_a_watch_that_was_told_to_begin_anew_may_miss_what_its_list_stands_for() -> None:
    history = good()
    history.seen[1:5] = [Listed(15, {"a": "a2"})]  # instead of b's life and a's change
    assert violations(history) == []
    history.seen[1] = Listed(12, {"a": "a1", "b": "b1"})
    assert any("no event of update a = a2" in line for line in violations(history))
    assert any("the watch ends with 'b1'" in line for line in violations(history))


def test_silence_is_counted_from_the_outage_on() -> None:
    history = good()  # acknowledged at 1.5, 2.5, 3.5 and 4.5
    assert longest_silence(history, 1.5, 4.5) == 1.0
    assert longest_silence(history, 1.5, 9.0) == 4.5
    assert longest_silence(history, 5.0, 9.0) == 4.0


@given(st.data())
def test_a_faithful_store_never_has_a_violation_and_any_lost_event_is_one(
    data: st.DataObject,
) -> None:
    """Random writes to a model store whose watch tells all."""
    history, revision, there = History(start=Listed(1)), 1, dict[str, str]()
    dead: set[str] = set()
    for step in range(data.draw(st.integers(1, 30))):
        key = data.draw(st.sampled_from("abcd"))
        outcome = data.draw(st.sampled_from([ACKNOWLEDGED, REFUSED, UNKNOWN]))
        if key in dead:
            continue
        act = data.draw(st.sampled_from(["update", "delete"])) if key in there else "create"
        value = "" if act == "delete" else f"{key}{step}"
        happens = outcome == ACKNOWLEDGED or (outcome == UNKNOWN and data.draw(st.booleans()))
        if happens:
            revision += data.draw(st.integers(1, 3))
            kind = {"create": "ADDED", "update": "MODIFIED", "delete": "DELETED"}[act]
            history.seen.append(Seen(kind, revision, key, value or there[key]))
            if act == "delete":
                dead.add(key)
                del there[key]
            else:
                there[key] = value
        elif outcome == UNKNOWN and act == "create":
            dead.add(key)  # the witness gives such a name up
        answered = revision if outcome == ACKNOWLEDGED and act != "delete" else 0
        history.writes.append(write(key, act, value, step, answered, outcome))
    history.end = Listed(revision, dict(there))
    assert violations(history) == []
    if history.seen:
        del history.seen[data.draw(st.integers(0, len(history.seen) - 1))]
        unseen = [w for w in history.writes if w.outcome == UNKNOWN]
        assert violations(history) or unseen
