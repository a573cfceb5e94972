"""``top nodes`` and ``top pods``: processors and memory in use right now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import typer

from k8slite.api import quantity, tables
from k8slite.api.errors import not_found
from k8slite.api.kinds import NODE, POD
from k8slite.api.kinds.node.types import Node
from k8slite.api.nodestats import NodeStats, Use
from k8slite.cli.ctl import asking, completion
from k8slite.cli.ctl.asking import asked
from k8slite.cli.ctl.call import Call
from k8slite.cli.ctl.flags import AllNamespaces, NoHeaders

#: Processors in use, and bytes; None where two looks are needed and one was had.
Amount = tuple[float | None, int]

_STATS = "stats"


async def nodes(
    call: Call,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="These nodes alone.",
            autocompletion=completion.nodes,
        ),
    ] = None,
    no_headers: NoHeaders = False,
) -> None:
    """Show what hosts use: processors and memory, by all that runs there."""  # fmt: skip
    known = {node.metadata.name: node for node in (await call.client.list(NODE)).items}
    for name in names or ():
        if name not in known:
            call.fail(not_found(NODE.plural, name))
    wanted = {name: node for name, node in known.items() if not names or name in names}
    first, second = await _looks(call, wanted)
    lines = [] if no_headers else [["NAME", "CPU(cores)", "CPU%", "MEMORY(bytes)", "MEMORY%"]]
    for name, stats in sorted(second.items()):
        cores, memory = _amount(stats.node, first[name].node, stats.seconds - first[name].seconds)
        lines.append(
            [
                name, _cores(cores), _share(cores, _capacity(wanted[name], "cpu")),
                _mebi(memory), _share(memory, _capacity(wanted[name], "memory")),
            ]
        )  # fmt: skip
    call.write(tables.layout(lines, 0))


async def pods(
    call: Call,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="These pods alone.",
            autocompletion=completion.pods,
        ),
    ] = None,
    all_namespaces: AllNamespaces = False,
    containers: Annotated[
        bool, typer.Option("--containers", help="Each container by itself.")
    ] = False,
    no_headers: NoHeaders = False,
) -> None:
    """Show what pods use: processors and memory of their containers."""  # fmt: skip
    found = await _looks(
        call, [node.metadata.name for node in (await call.client.list(NODE)).items]
    )
    rows: dict[tuple[str, str, str], Amount] = {}
    for key, amount in _of_containers(*found).items():
        namespace, pod, _ = key
        if (all_namespaces or namespace == call.namespace) and (not names or pod in names):
            place = key if containers else (namespace, pod, "")
            rows[place] = _sum(rows.get(place), amount)
    for name in sorted(set(names or ()) - {pod for _, pod, _ in rows}):
        call.fail(not_found(POD.plural, name))
    head = ["POD", "NAME"] if containers else ["NAME"]
    titles = [*head, "CPU(cores)", "MEMORY(bytes)"]
    lines = [] if no_headers else [["NAMESPACE", *titles] if all_namespaces else titles]
    for (namespace, pod, container), (cores, memory) in sorted(rows.items()):
        line = [pod, container] if containers else [pod]
        line += [_cores(cores), _mebi(memory)]
        lines.append([namespace, *line] if all_namespaces else line)
    call.write(tables.layout(lines, 0))


async def _looks(
    call: Call, names: Iterable[str]
) -> tuple[dict[str, NodeStats], dict[str, NodeStats]]:
    """What each node said, and said a second later."""
    first = await asked(call, names, _STATS, NodeStats)
    await call.clock.sleep(asking.INTERVAL)
    return first, await asked(call, first, _STATS, NodeStats)


def _of_containers(
    first: Mapping[str, NodeStats], second: Mapping[str, NodeStats]
) -> dict[tuple[str, str, str], Amount]:
    """By namespace, pod and container."""
    found: dict[tuple[str, str, str], Amount] = {}
    for node, stats in second.items():
        before = {
            (pod.pod_ref, use.name): use for pod in first[node].pods for use in pod.containers
        }
        for pod in stats.pods:
            for use in pod.containers:
                earlier = before.get((pod.pod_ref, use.name))
                key = (pod.pod_ref.namespace, pod.pod_ref.name, use.name)
                found[key] = _amount(use, earlier, stats.seconds - first[node].seconds)
    return found


def _amount(now: Use, before: Use | None, seconds: float) -> Amount:
    memory = now.memory.working_set_bytes
    spent = now.cpu.usage_core_nano_seconds
    if before is None or seconds <= 0 or spent < before.cpu.usage_core_nano_seconds:
        return None, memory  # it began meanwhile
    return (spent - before.cpu.usage_core_nano_seconds) / 1e9 / seconds, memory


def _sum(one: Amount | None, other: Amount) -> Amount:
    if one is None:
        return other
    cores = None if one[0] is None or other[0] is None else one[0] + other[0]
    return cores, one[1] + other[1]


def _capacity(node: Node, resource: str) -> float:
    text = (node.status.capacity or {}).get(resource)
    return float(quantity.parse(text)) if text else 0.0


def _cores(cores: float | None) -> str:
    return tables.UNKNOWN if cores is None else f"{cores * 1000:.0f}m"


def _mebi(number: int) -> str:
    return f"{number / (1 << 20):.0f}Mi"


def _share(amount: float | None, whole: float) -> str:
    return tables.UNKNOWN if amount is None or not whole else f"{amount / whole:.0%}"
