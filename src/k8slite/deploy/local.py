"""A cluster of this machine alone: ``k8slite up`` and ``k8slite down``.

``up`` writes down what it found before it changes anything, so that ``down`` can put it back even
when ``up`` broke half-way. Both may be run again at any time.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from k8slite.config import Settings
from k8slite.deploy.host import Engine, HostError, HostRecord, end, spawn, start_time
from k8slite.kit.clock import Clock

Say = Callable[[str], None]


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


class LocalCluster:
    """Brings the cluster of this machine up and down.

    ``agent_flags`` are handed to ``k8slite agent`` as they are; ``uninstall`` removes from the
    host what the agent declared there (containers, networks, chains) and returns what it removed;
    ``ready`` waits until the node is Ready and reports progress through the callback it is given.
    """

    def __init__(
        self,
        settings: Settings,
        agent_flags: list[str],
        clock: Clock,
        say: Say,
        *,
        ready: Callable[[Say], Awaitable[None]],
        uninstall: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._settings = settings
        self._flags = agent_flags
        self._clock = clock
        self._say = say
        self._ready = ready
        self._uninstall = uninstall
        self.places = Places(settings.data_dir)
        self._engine = Engine(settings.docker_host, clock)

    async def up(self) -> None:
        """Docker, agent, node Ready. Raises HostError."""
        self.places.data_dir.mkdir(parents=True, exist_ok=True)
        record = HostRecord.load(self.places.record) or HostRecord()
        try:
            await self._docker_up(record)
        finally:
            record.save(self.places.record)
        if record.agent_pid and start_time(record.agent_pid) == record.agent_started:
            self._say(f"... agent runs already (pid {record.agent_pid})")
        else:
            words = [sys.executable, "-m", "k8slite", "agent", *self._flags]
            record.agent_pid = spawn(words, self.places.agent_log)
            record.agent_started = start_time(record.agent_pid)
            record.save(self.places.record)
            self._say(f"... agent started (pid {record.agent_pid}, log {self.places.agent_log})")
        await self._ready(self._alive(record))

    def _alive(self, record: HostRecord) -> Say:
        """A ``say`` for those who wait: it also notices when the agent is dead."""

        def say(line: str) -> None:
            if start_time(record.agent_pid) != record.agent_started:
                text = self.places.agent_log.read_text(errors="replace").strip()
                last = text.splitlines()[-1] if text else "it left no word"
                raise HostError(f"the agent ended: {last} (log: {self.places.agent_log})")
            if line:
                self._say(line)

        return say

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
        if not await self._engine.answers():
            await self._docker_up(record)  # containers can only be removed through it
            record.save(self.places.record)
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
