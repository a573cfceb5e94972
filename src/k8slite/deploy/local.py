"""A cluster of this machine alone: ``k8slite up`` and ``k8slite down``.

``up`` writes down what it found before it changes anything, so that ``down`` can put it back even
when ``up`` broke half-way. Both may be run again at any time.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from k8slite.api.errors import ApiError, NotFound
from k8slite.api.kinds import COMPONENT_STATUS, NODE
from k8slite.client.base import Client
from k8slite.config import Settings
from k8slite.deploy import report
from k8slite.deploy.host import Engine, HostError, HostRecord, end, spawn, start_time, taken
from k8slite.kit.clock import Clock

Say = Callable[[str], None]


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON can hold them."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(settings).items()
    }


def recorded_settings(data_dir: Path) -> Settings:
    """The settings that ``up`` ran with, from the record it left in ``data_dir``."""
    record = HostRecord.load(Places(data_dir).record)
    return replace(settings_of(record.settings if record else {}), data_dir=data_dir)


def settings_of(plain: Mapping[str, Any]) -> Settings:
    """The way back from ``plain``; what is left out has its default."""
    known = dict(plain)
    for field in fields(Settings):
        if field.name in known and "Path" in str(field.type) and known[field.name] is not None:
            known[field.name] = Path(known[field.name])
        elif isinstance(known.get(field.name), list):
            known[field.name] = tuple(known[field.name])
    return Settings(**known)


def agent_words(settings: Settings) -> list[str]:
    """The flags of ``k8slite agent`` that say ``settings``; defaults are left out."""
    line: list[str] = []
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if value == field.default or field.name in ("docker_network", "event_ttl"):
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if field.name == "admission_control":
            line += [flag, ",".join(value)]
        elif isinstance(value, tuple):
            line += [word for item in value for word in (flag, item)]
        else:
            line += [flag, str(value)]
    return line


def listening_ports(settings: Settings) -> dict[str, int]:
    """The ports that an agent with these settings listens on, by flag."""
    found = {}
    if "a" in settings.roles:
        found = {
            "--port": settings.port,
            "--secure-port": settings.secure_port,
            "--read-only-port": settings.read_only_port,
        }
    return {**found, "--node-port": settings.node_port} if "i" in settings.roles else found


def _differing(some: list[str], others: list[str]) -> str:
    """The flags of a command line that another has not, as one would type them."""
    pairs = list(zip(some[::2], some[1::2], strict=True))
    there = list(zip(others[::2], others[1::2], strict=True))
    return " ".join(f"{flag} {value}" for flag, value in pairs if (flag, value) not in there) or (
        "the defaults"
    )


async def report_of(client: Client, settings: Settings, clock: Clock) -> str:
    """The article's closing lines for the cluster as it stands."""
    nodes = await client.list(NODE)
    components = await client.list(COMPONENT_STATUS)
    return report.closing(
        nodes.items, components.items, settings.node_ip, settings.port, clock.now()
    )


@dataclass(frozen=True, slots=True)
class Places:
    """Where a local cluster keeps what it needs, all under the data folder."""

    data_dir: Path

    @property
    def record(self) -> Path:
        return self.data_dir / "host.json"

    @property
    def agent_log(self) -> Path:
        return self.data_dir / "agent.log"

    @property
    def docker_log(self) -> Path:
        return self.data_dir / "dockerd.log"

    @property
    def kubeconfig(self) -> Path:
        return self.data_dir / "admin.kubeconfig"


#: How long a node may take to become Ready, in seconds.
PATIENCE = 120.0


class LocalCluster:
    """Brings the cluster of this machine up and down.

    ``uninstall`` removes from the host what the agent declared there (containers, networks,
    chains) and says what it removed; ``client`` is only needed to bring the cluster up; ``holder``
    is the pid of the agent that is this host's node, 0 without one.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        say: Say,
        *,
        client: Client | None,
        uninstall: Callable[[], Awaitable[list[str]]],
        holder: Callable[[], int] = lambda: 0,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._say = say
        self._client = client
        self._uninstall = uninstall
        self._holder = holder
        self.places = Places(settings.data_dir)
        self._engine = Engine(settings.docker_host, clock)

    async def up(self) -> None:
        """Docker, agent, node Ready. Raises HostError."""
        record = HostRecord.load(self.places.record) or HostRecord()
        running = record.agent_pid and start_time(record.agent_pid) == record.agent_started
        if running:
            self._must_be_the_same(record)
        else:
            self._must_be_free()
        try:
            await self._docker_up(record)
        finally:
            record.save(self.places.record)
        if running:
            self._say(f"... agent runs already (pid {record.agent_pid})")
        else:
            record.settings = plain(self._settings)
            words = [sys.executable, "-m", "k8slite", "agent", *agent_words(self._settings)]
            record.agent_pid = spawn(words, self.places.agent_log)
            record.agent_started = start_time(record.agent_pid)
            record.save(self.places.record)
            self._say(f"... agent started (pid {record.agent_pid}, log {self.places.agent_log})")
        await self._until_ready(record)

    def _must_be_the_same(self, record: HostRecord) -> None:
        """An agent that runs with other flags is not this one. Raises HostError."""
        have = agent_words(recorded_settings(self.places.data_dir))
        want = agent_words(self._settings)
        if have != want:
            raise HostError(
                f"the agent runs already (pid {record.agent_pid}), with other flags: "
                f"{_differing(have, want)} and not {_differing(want, have)}; "
                "use the same, or run `k8slite down` first"
            )

    def _must_be_free(self) -> None:
        """Nobody else is this host's node, nobody listens on our ports. Raises HostError."""
        if "i" in self._settings.roles and (holder := self._holder()):
            raise HostError(
                f"another agent (pid {holder}) is this host's node, with a data folder of its "
                "own: bring that one down first"
            )
        for flag, port in listening_ports(self._settings).items():
            if taken(port):
                raise HostError(
                    f"port {port} is in use: end the process that listens there "
                    f"(ss -ltnp sport = :{port}) or choose another with {flag}"
                )

    async def _until_ready(self, record: HostRecord) -> None:
        """Wait for the API, then for the node. Raises HostError when the agent ends or idles."""
        assert self._client is not None
        name = self._settings.node_name
        began = self._clock.monotonic()
        said = ""
        while True:
            self._must_live(record)
            try:
                node = await self._client.get(NODE, name)
                if report.node_is_ready(node):
                    break
                why = report.why_not_ready(node)
                stage = f"waiting for node {name} to be Ready{f': {why}' if why else ''}"
            except NotFound:
                stage = f"waiting for node {name} to register"
            except ApiError:
                stage = "waiting for the API"
            if stage != said:
                self._say(f"... {stage}")
                said = stage
            if self._clock.monotonic() - began > PATIENCE:
                raise HostError(f"gave up {stage} after {PATIENCE:.0f} s: {self.places.agent_log}")
            await self._clock.sleep(0.05)
        self._say(f"... node {name} is Ready ({self._clock.monotonic() - began:.1f} s)")

    def _must_live(self, record: HostRecord) -> None:
        if start_time(record.agent_pid) == record.agent_started:
            return
        text = self.places.agent_log.read_text(errors="replace").strip()
        last = text.splitlines()[-1] if text else "it left no word"
        raise HostError(f"the agent ended: {last} (log: {self.places.agent_log})")

    async def _docker_up(self, record: HostRecord) -> None:
        version = await self._engine.answers()
        if version:
            self._say(f"... Docker {version} answers")
            return
        self._say("... starting Docker")
        version = await self._engine.start(record, self.places.docker_log)
        self._say(f"... Docker {version} started")

    async def down(self, *, keep_data: bool = False) -> None:
        """Stop the agent, remove what it declared, stop Docker if we started it."""
        record = HostRecord.load(self.places.record)
        if record is None:
            self._say("nothing to stop: no cluster was brought up here")
            return
        if await end(record.agent_pid, record.agent_started, self._clock):
            self._say(f"... agent stopped (pid {record.agent_pid})")
        if not self._holder() and not await self._engine.answers():
            await self._docker_up(record)  # containers can only be removed through it
            record.save(self.places.record)
        if holder := self._holder():
            self._say(f"... containers and portal rules left alone: agent {holder} has this host")
        else:
            for line in await self._uninstall():
                self._say(f"... removed {line}")
        if await self._engine.stop(record):
            self._say("... Docker stopped, as it was found")
        if keep_data:
            self.places.record.unlink(missing_ok=True)
            self._say(f"... data kept in {self.places.data_dir}")
        else:
            self._remove_data()
            self._say(f"... removed {self.places.data_dir}")
        self._say("The host is as it was found.")

    def _remove_data(self) -> None:
        """Remove the data folder, never through a mount that somebody left below it."""
        root = str(self.places.data_dir.resolve())
        for line in Path("/proc/self/mounts").read_text().splitlines():
            target = line.split()[1].encode().decode("unicode_escape")
            if target.startswith(root + "/"):
                raise HostError(f"{target} is still mounted: umount it, then run down again")
        shutil.rmtree(root)
