"""Any sequence of transactions leaves a store as it leaves a dict, and its history as a list."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.lab.etcd import EtcdCluster

from k8slite.kit.clock import Clock
from k8slite.kit.virtual import HandClock
from k8slite.store.base import (
    Check,
    Compacted,
    Create,
    Delete,
    KeyExists,
    KeyValue,
    Mismatch,
    Op,
    Put,
    Store,
    StoreEvent,
    Update,
)
from k8slite.store.etcd import EtcdStore
from k8slite.store.memory import MemoryStore
from k8slite.store.sqlite import SqliteStore

ROOTS = count()
KEYS = st.sampled_from(["/a", "/b", "/b/c", "/d"])
VALUES = st.binary(max_size=3)
#: How far a compare is from the truth; mostly right, so that most transactions go through.
MISSES = st.sampled_from([0, 0, 0, 0, 1, -1])


class StoreMachine(RuleBasedStateMachine):
    """``state`` and ``events`` are what the store should hold."""

    durable = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.opened = AsyncExitStack()
        self.state: dict[str, KeyValue] = {}
        self.events: list[list[StoreEvent]] = []
        self.compacted = 0

    def make(self) -> Store:
        return MemoryStore(HandClock())

    @initialize()
    def open(self) -> None:
        self.store = self.runner.run(self.opened.enter_async_context(self.make()))
        self.first = self.revision = self.runner.run(self.store.revision())

    def teardown(self) -> None:
        self.runner.run(self.opened.aclose())
        self.runner.close()
        self.directory.cleanup()

    def at(self, key: str) -> int:
        return self.state[key].mod_revision if key in self.state else 0

    @rule(
        wishes=st.lists(
            st.tuples(st.sampled_from([Create, Update, Put, Delete, Check]), KEYS, VALUES, MISSES),
            min_size=1,
            max_size=4,
            unique_by=lambda wish: wish[1],
        )
    )
    def transact(self, wishes: Sequence[tuple[type[Op], str, bytes, int]]) -> None:
        ops: list[Op] = []
        for kind, key, value, miss in wishes:
            if kind is Create or kind is Put:
                ops.append(kind(key, value))
            elif kind is Update:
                ops.append(Update(key, value, self.at(key) + miss))
            else:
                ops.append(kind(key, self.at(key) + miss))
        refused = self.refusal(ops)
        if refused is None:
            self.expect(ops, self.runner.run(self.store.commit(ops)))
        else:
            with pytest.raises(type(refused)) as caught:
                self.runner.run(self.store.commit(ops))
            assert vars(caught.value) == vars(refused)

    def refusal(self, ops: Sequence[Op]) -> KeyExists | Mismatch | None:
        """What the first compare that fails says."""
        for op in ops:
            actual = self.at(op.key)
            match op:
                case Create() if actual:
                    return KeyExists(op.key)
                case Update() | Delete() if not actual or op.revision != actual:
                    return Mismatch(op.key, actual)
                case Check() if op.revision != actual:
                    return Mismatch(op.key, actual)
        return None

    def expect(self, ops: Sequence[Op], revision: int) -> None:
        events = []
        for op in ops:
            if isinstance(op, Check):
                continue
            old = self.state.get(op.key)
            previous = None if old is None else old.value
            created = revision if old is None else old.create_revision
            if isinstance(op, Delete):
                del self.state[op.key]
                events.append(StoreEvent(op.key, revision, None, created, previous))
            else:
                self.state[op.key] = KeyValue(op.key, op.value, created, revision)
                events.append(StoreEvent(op.key, revision, op.value, created, previous))
        if events:
            assert revision > self.revision
            self.revision = revision
            self.events.append(events)
        assert revision == self.revision

    @rule(prefix=st.sampled_from(["", "/", "/b", "/b/"]))
    def scan(self, prefix: str) -> None:
        snapshot = self.runner.run(self.store.scan(prefix))
        assert snapshot.revision == self.revision
        assert list(snapshot.items) == [
            item for key, item in sorted(self.state.items()) if key.startswith(prefix)
        ]

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        assert self.runner.run(self.store.get(key)) == self.state.get(key)

    def since(self, percent: int) -> int:
        """A revision of this run. What is drawn must not depend on which revisions those are: the
        store may be older than the run."""
        return self.first + (self.revision - self.first) * percent // 100

    @rule(percent=st.integers(0, 100))
    def compact(self, percent: int) -> None:
        revision = self.since(percent)
        self.runner.run(self.store.compact(revision))
        self.compacted = max(self.compacted, revision)

    @rule(percent=st.integers(0, 100), prefix=st.sampled_from(["", "/b"]))
    def watch(self, percent: int, prefix: str) -> None:
        after = self.since(percent)
        expected = [
            event
            for events in self.events
            for event in events
            if event.revision > after and event.key.startswith(prefix)
        ]

        async def read() -> list[StoreEvent]:
            found: list[StoreEvent] = []
            async with aclosing(self.store.watch(prefix, after)) as batches:
                while len(found) < max(1, len(expected)):
                    found += await anext(batches)
            return found

        if after < self.compacted:
            with pytest.raises(Compacted):
                self.runner.run(read())
        elif expected:
            assert self.runner.run(read()) == expected

    @precondition(lambda self: self.durable)
    @rule()
    def reopen(self) -> None:
        self.runner.run(self.opened.aclose())
        self.store = self.runner.run(self.opened.enter_async_context(self.make()))
        assert self.runner.run(self.store.revision()) == self.revision

    @rule()
    def count(self) -> None:
        stats = self.runner.run(self.store.stats())
        assert (stats.revision, stats.keys) == (self.revision, len(self.state))


class SqliteMachine(StoreMachine):
    durable = True

    def make(self) -> Store:
        return SqliteStore(Path(self.directory.name) / "store.db", HandClock())


class EtcdMachine(StoreMachine):
    durable = True
    cluster: EtcdCluster  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.root = f"/model{next(ROOTS)}"

    def make(self) -> Store:
        return EtcdStore(self.cluster.endpoints, Clock(), root=self.root)


def test_etcd_model(etcd: EtcdCluster) -> None:
    EtcdMachine.cluster = etcd
    run_state_machine_as_test(
        EtcdMachine, settings=settings(max_examples=15, stateful_step_count=25, deadline=None)
    )


TestMemoryModel = StoreMachine.TestCase
TestMemoryModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSqliteModel = SqliteMachine.TestCase
TestSqliteModel.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
