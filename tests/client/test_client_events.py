"""The event recorder: told once, counted after; never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from registry_world import Intercepted, World, pod, registry_on

from k8slite.api.kinds import EVENT, NAMESPACE
from k8slite.api.kinds.event.types import Event
from k8slite.api.meta import DeleteOptions
from k8slite.api.user import SYSTEM
from k8slite.client import events
from k8slite.client.events import EventRecorder
from k8slite.kit.clock import LoopClock
from k8slite.kit.tasks import stop
from k8slite.kit.virtual import run_virtual
from k8slite.store.base import Op, OutcomeUnknown, StoreUnavailable
from k8slite.store.memory import MemoryStore


def recording(test: Callable[[World, EventRecorder, Any], Awaitable[None]]) -> None:
    async def main() -> None:
        clock = LoopClock()
        async with MemoryStore(clock) as memory:
            store: Any = Intercepted(memory)
            async with registry_on(store, clock) as world:
                recorder = EventRecorder(world.client, clock, "kubelet", "node-1")
                running = asyncio.create_task(recorder.run(), name="events")
                await test(world, recorder, store)
                await stop(running)

    run_virtual(main())


def written(world: World) -> list[Event]:
    return [entry.object for entry in world.cache.table(EVENT).entries()]


def test_an_event_says_who_saw_what_where_and_when() -> None:
    async def test(world: World, recorder: EventRecorder, store: Any) -> None:
        created = await world.client.create(pod())
        recorder.event(created, "Pulled", "image nginx is here")
        await world.clock.sleep(1)
        (event,) = written(world)
        assert event.metadata.namespace == "default"
        assert event.metadata.name.startswith("web.")
        assert event.involved_object.uid == created.metadata.uid
        assert event.involved_object.kind == "Pod"
        assert (event.reason, event.message, event.type) == (
            "Pulled", "image nginx is here", "Normal",
        )  # fmt: skip
        assert (event.source.component, event.source.host) == ("kubelet", "node-1")
        assert event.count == 1
        assert event.first_timestamp == event.last_timestamp

    recording(test)


def test_the_same_news_is_counted_not_repeated() -> None:
    async def test(world: World, recorder: EventRecorder, store: Any) -> None:
        created = await world.client.create(pod())
        for _ in range(5):
            recorder.event(created, "BackOff", "crashed again", "Warning")
        await world.clock.sleep(1)
        recorder.event(created, "BackOff", "crashed again", "Warning")
        await world.clock.sleep(1)
        recorder.event(created, "Killing", "other news")
        await world.clock.sleep(1)
        counted = {event.reason: event.count for event in written(world)}
        assert counted == {"BackOff": 6, "Killing": 1}
        (again,) = (event for event in written(world) if event.reason == "BackOff")
        assert (again.first_timestamp or "") < (again.last_timestamp or "")

    recording(test)


def test_an_event_whose_hour_is_over_begins_anew() -> None:
    async def test(world: World, recorder: EventRecorder, store: Any) -> None:
        created = await world.client.create(pod())
        recorder.event(created, "BackOff", "crashed")
        await world.clock.sleep(4000)
        assert written(world) == []
        recorder.event(created, "BackOff", "crashed")
        await world.clock.sleep(1)
        (event,) = written(world)
        assert event.count == 1

    recording(test)


def test_news_waits_for_a_store_that_is_away() -> None:
    async def test(world: World, recorder: EventRecorder, store: Any) -> None:
        async def down(ops: list[Op]) -> None:
            raise StoreUnavailable("away")

        created = await world.client.create(pod())
        store.before = down
        recorder.event(created, "Pulled", "one")
        await world.clock.sleep(3)
        store.before = None
        await world.clock.sleep(60)
        assert [event.count for event in written(world)] == [1]

    recording(test)


def test_an_unknown_outcome_is_told_again_rather_than_never() -> None:
    async def test(world: World, recorder: EventRecorder, store: Any) -> None:
        async def cut(ops: list[Op]) -> None:
            store.after = None
            raise OutcomeUnknown("cut")

        created = await world.client.create(pod())
        store.after = cut
        recorder.event(created, "Pulled", "one")
        await world.clock.sleep(60)
        assert {event.reason for event in written(world)} == {"Pulled"}

    recording(test)


def test_news_for_a_namespace_that_leaves_is_dropped_and_the_rest_is_told() -> None:
    async def test(world: World, recorder: EventRecorder, store: Any) -> None:
        gone = await world.client.create(pod(meta={"namespace": "shop"}))
        kept = await world.client.create(pod())
        await world.registry.delete(NAMESPACE, "", "shop", DeleteOptions(), user=SYSTEM)
        recorder.event(gone, "Killing", "leaving")
        recorder.event(kept, "Pulled", "here")
        await world.clock.sleep(5)
        assert [event.reason for event in written(world)] == ["Pulled"]

    recording(test)


def test_too_much_news_drops_the_oldest() -> None:
    async def test(world: World, recorder: EventRecorder, store: Any) -> None:
        created = await world.client.create(pod())
        for number in range(events.BOUND + 10):
            recorder.event(created, "Noise", f"number {number}")
        await world.clock.sleep(5)
        messages = {event.message for event in written(world)}
        assert len(messages) == events.BOUND
        assert f"number {events.BOUND + 9}" in messages
        assert "number 0" not in messages

    recording(test)


def test_a_flood_of_news_is_one_line_in_the_log() -> None:
    async def test(world: World, recorder: EventRecorder, store: Any) -> None:
        created = await world.client.create(pod())
        with structlog.testing.capture_logs() as lines:
            for number in range(5 * events.BOUND):
                recorder.event(created, "Pulled", f"image {number}")
            await world.clock.sleep(60)
            for number in range(events.BOUND + 1):
                recorder.event(created, "Pulled", f"picture {number}")
        said = [line for line in lines if line["event"].startswith("events dropped")]
        assert [line["dropped"] for line in said] == [1, 4 * events.BOUND]
        assert len(written(world)) == events.BOUND

    recording(test)
