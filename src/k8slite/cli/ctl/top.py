"""``top services``: what services are doing right now, told by the nodes and added up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from k8slite.api import printing, tables
from k8slite.api.errors import ApiError, BadRequest, NotFound, not_found
from k8slite.api.kinds import NODE, SERVICE
from k8slite.api.servicestats import ServiceStats
from k8slite.cli.ctl import asking, completion
from k8slite.cli.ctl.asking import asked
from k8slite.cli.ctl.call import Call
from k8slite.cli.ctl.flags import AllNamespaces, NoHeaders
from k8slite.decide.throughput import EndpointWork, PortWork, Work, added_up, state_of

app = typer.Typer(
    name="top", help="What the cluster is doing right now.",
    short_help="Show what services, pods and nodes do", no_args_is_help=True, rich_markup_mode=None,
)  # fmt: skip

Query = list[tuple[str, str]]

_STATS = "stats/services"


async def services(
    call: Call,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            show_default=False,
            help="These services alone.",
            autocompletion=completion.services,
        ),
    ] = None,
    all_namespaces: AllNamespaces = False,
    endpoints: Annotated[
        bool, typer.Option("--endpoints", help="Each endpoint below its service.")
    ] = False,
    once: Annotated[
        bool,
        typer.Option("--once", help="What was counted since the proxies began, and no rates."),
    ] = False,
    output: Annotated[
        str, typer.Option("--output", "-o", help="json or yaml.", metavar="FORMAT")
    ] = "",
    no_headers: NoHeaders = False,
) -> None:
    """Show what services do: connections, bytes and failures a second, on all nodes together.

    CONNECT is the time that reaching an endpoint took on average, FAILED are attempts that went
    on with another endpoint, REFUSED clients that found none.
    """
    form = printing.parse_format(output)
    if form.name not in ("", "json", "yaml"):
        raise BadRequest(f"-o {output}: top knows json and yaml")
    wanted = frozenset(names or ())
    query: Query = [("service", name) for name in sorted(wanted)]
    query += [("endpoints", "true")] if endpoints else []
    if not all_namespaces:
        query.append(("namespace", call.namespace))
    ports = await _looked(call, query, once=once)
    for name in sorted(wanted - {port.service for port in ports}):
        await _explain(call, name, all_namespaces)
    if form.name:
        document = {"items": [_document(port, once=once) for port in ports]}
        call.write((printing.as_json if form.name == "json" else printing.as_yaml)(document))
        return
    table = Table(namespaced=all_namespaces, endpoints=endpoints, once=once)
    lines = [] if no_headers else [table.titles()]
    for port in ports:
        lines += table.rows(port)
    call.write("".join(f"{line.rstrip()}\n" for line in tables.layout(lines, 0).splitlines()))


async def _explain(call: Call, name: str, everywhere: bool) -> None:
    """Say why there is nothing to be said of a service."""
    try:
        if everywhere:
            raise not_found(SERVICE.plural, name)
        await call.client.get(SERVICE, name, call.namespace)
        raise NotFound(f"no node serves {name}: it has no address of its own, or is quite new")
    except ApiError as error:
        call.fail(error)


async def _looked(call: Call, query: Query, *, once: bool) -> list[PortWork]:
    """What all nodes say; those that do not answer are told, and the others shown."""
    nodes = [node.metadata.name for node in (await call.client.list(NODE)).items]
    first = await asked(call, nodes, _STATS, ServiceStats, query)
    if once:
        return added_up(first)
    await call.clock.sleep(asking.INTERVAL)
    second = await asked(call, first, _STATS, ServiceStats, query)
    return added_up(first | second, {name: first[name] for name in second})


# -- shown -----------------------------------------------------------------------------------------

Cell = Callable[[PortWork | EndpointWork, Work], str]

_RATES: tuple[tuple[str, Cell], ...] = (
    ("CONN/S", lambda row, work: count(work.connections)),
    ("ACTIVE", lambda row, work: count(row.active)),
    ("IN/S", lambda row, work: size(work.received)),
    ("OUT/S", lambda row, work: size(work.sent)),
    ("CONNECT", lambda row, work: duration(work.connect_time)),
    ("FAILED/S", lambda row, work: count(work.failures)),
    ("REFUSED/S", lambda row, work: count(work.unserved)),
)
_TOTALS = tuple(
    ({"CONN/S": "CONNECTIONS"}.get(title) or title.removesuffix("/S"), cell)
    for title, cell in _RATES
)


class Table:
    """A row for each service port, and below it, if wanted, one for each endpoint."""

    def __init__(self, *, namespaced: bool, endpoints: bool, once: bool) -> None:
        self._namespaced = namespaced
        self._endpoints = endpoints
        self._once = once
        self._columns = _TOTALS if once else _RATES

    def titles(self) -> list[str]:
        titles = ["NAME", "PORT", "ENDPOINTS", *(title for title, _ in self._columns)]
        titles += ["STATE"] if self._endpoints else []
        return ["NAMESPACE", *titles] if self._namespaced else titles

    def rows(self, port: PortWork) -> Iterable[list[str]]:
        place = f"{port.port}/{port.protocol}"
        head = [port.namespace] if self._namespaced else []
        yield [*head, port.service, place, str(port.in_use), *self._numbers(port)]
        blank = [""] * (len(head) + 2)
        if self._endpoints:
            for end in port.endpoints.values():
                yield [*blank, end.address, *self._numbers(end), state_of(end)]

    def _numbers(self, row: PortWork | EndpointWork) -> list[str]:
        work = row.total if self._once else row.rate
        numbers = [cell(row, work) for _, cell in self._columns]
        if isinstance(row, EndpointWork):
            numbers[-1] = ""  # nobody is refused by one endpoint
        return numbers


def count(number: float) -> str:
    """``0``, ``0.5``, ``12``, ``1204``: a fraction only where it says something."""
    return f"{number:.1f}" if 0 < number < 9.95 and number != int(number) else f"{number:.0f}"


def size(number: float) -> str:
    """Bytes: ``0``, ``512B``, ``1.2kB``, ``48MB``."""
    if number < 0.5:
        return "0"
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return _short(number) + unit
        number /= 1000
    return _short(number) + "TB"


def duration(seconds: float | None) -> str:
    """``0.21ms``, ``35ms``, ``1.2s``; ``-`` where nothing was timed."""
    if seconds is None:
        return "-"
    return f"{_short(seconds)}s" if seconds >= 0.9995 else f"{_short(seconds * 1000)}ms"


def _short(number: float) -> str:
    """Two digits, or as many as stand before the point."""
    if number >= 9.95:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 0.995 else f"{number:.2f}"


def _document(port: PortWork, *, once: bool) -> dict[str, Any]:
    def work(row: PortWork | EndpointWork) -> dict[str, Any]:
        rates = {} if once else {"perSecond": _numbered(row.rate)}
        return {"active": row.active, "total": _numbered(row.total), **rates}

    return {
        "namespace": port.namespace,
        "service": port.service,
        "port": {"name": port.port_name, "number": port.port, "protocol": port.protocol},
        "endpointsInUse": port.in_use,
        **work(port),
        "endpoints": [
            {
                "address": end.address,
                "state": state_of(end),
                "nodes": end.nodes,
                "ejectedOn": end.ejected,
                "weight": end.weight,
                **work(end),
            }
            for end in port.endpoints.values()
        ],
    }


def _numbered(work: Work) -> dict[str, float]:
    names = {"connect_seconds": "connectSeconds"}
    return {names.get(name, name): round(value, 6) for name, value in asdict(work).items()}
