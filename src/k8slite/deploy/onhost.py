"""What is done on a host itself, by the k8slite that has just travelled there.

``apply`` makes the host what its plan says and ``remove`` undoes it; both may break at any step and
be run again. Before anything is changed it is written down in ``/etc/k8slite``.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from k8slite.config import Settings
from k8slite.deploy import facts, plan
from k8slite.deploy.docker import Docker
from k8slite.deploy.host import HostError, HostRecord, taken
from k8slite.deploy.local import agent_words, listening_ports, settings_of
from k8slite.deploy.plan import HostPlan
from k8slite.deploy.services import Services
from k8slite.deploy.units import LOGS, RUN, Service
from k8slite.kit.clock import Clock
from k8slite.pki.authority import CLIENT, SERVER, Authority, Wanted
from k8slite.pki.files import Pki, write
from k8slite.pki.issuing import keep_pair

AGENT = "k8slite"
ETCD = "k8slite-etcd"

_CONFIG = Path(facts.CONFIG)
_DATA = Path(facts.DATA)
_RECORD = _CONFIG / "host.json"
_LOCK = Path("/run/k8slite.lock")
#: etcd's certificates are renewed by the next `up` when they have fewer days left.
_ETCD_DAYS = 3650

#: Seconds to wait for another who is changing this host, and for an agent that starts again.
_PATIENCE = 60.0

Say = Callable[[str], None]


class OnHost:
    """``uninstall`` takes away what the agent declared on the host (containers, chains, links) and
    says what that was."""

    def __init__(
        self,
        services: Services,
        clock: Clock,
        say: Say,
        uninstall: Callable[[Settings], Awaitable[list[str]]],
    ) -> None:
        self._services = services
        self._clock = clock
        self._say = say
        self._uninstall = uninstall
        self._record = HostRecord.load(_RECORD) or HostRecord()
        self._docker = Docker(self._record, self._save, services, clock)

    def _save(self) -> None:
        _CONFIG.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._record.save(_RECORD)
        _RECORD.chmod(0o600)

    # -- apply --------------------------------------------------------------------------------

    async def apply(self, wanted: HostPlan) -> list[str]:
        """Make the host what ``wanted`` says; what was changed. Raises HostError."""
        async with _alone(self._clock):
            self._note(wanted)
            changed = self._credentials(wanted)
            await self._docker.ensure(wanted.docker_options, self._say)
            settings = settings_of(wanted.settings)
            self._record.settings = dict(wanted.settings)
            self._save()
            changed += self._etcd(wanted, fresh=changed)
            agent = self._agent(settings, wanted, renewed="credentials" in changed)
            if "agent restarted" in agent:
                await self._until_it_listens(settings)
            changed += agent
            _keep(_CONFIG / "plan.sha256", wanted.digest + "\n", 0o644)
            _forget_others(wanted)
            return changed

    def _note(self, wanted: HostPlan) -> None:
        """Which cluster this is, and what was here before it."""
        if not _RECORD.exists():
            self._record.mounts = _mounts_below(_DATA)
            self._save()
        (_CONFIG / "plan.sha256").unlink(missing_ok=True)  # until this one is carried out
        text = facts.record_text(wanted.cluster, wanted.nodes, wanted.networks, wanted.installer)
        _keep(_CONFIG / "cluster.json", text, 0o644)

    def _credentials(self, wanted: HostPlan) -> list[str]:
        """The authority and what it signs on a master, the token elsewhere."""
        _DATA.mkdir(mode=0o755, parents=True, exist_ok=True)
        pki = Pki(_DATA, self._clock)
        if wanted.shared is None:
            return self._token(wanted, pki)
        changed = pki.adopt(wanted.shared.bundle.encode())
        if wanted.etcd:
            changed = self._etcd_pairs(wanted) or changed
        return ["credentials"] if changed else []

    def _token(self, wanted: HostPlan, pki: Pki) -> list[str]:
        authority = _CONFIG / "authority"
        known = authority.read_text().strip() if authority.exists() else ""
        if known != wanted.authority:
            # Of a cluster that is no more: with its certificates this node would stay outside.
            shutil.rmtree(pki.folder, ignore_errors=True)
        changed = _keep(Path(plan.TOKEN), wanted.token + "\n", 0o600)
        _keep(authority, wanted.authority + "\n", 0o644)
        return ["credentials"] if changed and known != wanted.authority else []

    def _etcd_pairs(self, wanted: HostPlan) -> bool:
        """Certificates of etcd's member and of the agent as its client."""
        assert wanted.shared is not None
        certificate, key = wanted.shared.etcd_certificate, wanted.shared.etcd_key
        authority = Authority.load(certificate.encode(), key.encode(), self._clock)
        folder = Path(plan.PKI)
        changed = _keep(folder / "etcd-ca.crt", certificate, 0o644)
        changed = _keep(folder / "etcd-ca.key", key, 0o600) or changed
        names = (wanted.address, "127.0.0.1", "::1", "localhost")
        for file, pair in {
            "etcd-server": Wanted(
                wanted.address, names=names, usages=(SERVER, CLIENT), days=_ETCD_DAYS
            ),
            "etcd-client": Wanted("k8slite", days=_ETCD_DAYS),
        }.items():
            changed = keep_pair(folder, file, pair, authority, self._clock, write) or changed
        return changed

    def _etcd(self, wanted: HostPlan, *, fresh: list[str]) -> list[str]:
        if not wanted.etcd:
            return ["etcd removed"] if self._services.remove(ETCD) else []
        # The first start decides about these for good; later they are not looked at.
        first = _CONFIG / "etcd.first"
        begun = (Path(plan.ETCD_DATA) / "member").exists() and first.exists()
        flags = json.loads(first.read_text()) if begun else wanted.etcd_first
        _keep(first, json.dumps(flags), 0o644)
        Path(plan.ETCD_DATA).mkdir(mode=0o700, parents=True, exist_ok=True)
        program = f"{facts.PREFIX}/{wanted.etcd}/etcd"
        service = Service(ETCD, (program, *wanted.etcd_flags, *flags), "etcd of k8slite")
        return self._serve(service, renewed="credentials" in fresh, called="etcd")

    def _agent(self, settings: Settings, wanted: HostPlan, *, renewed: bool) -> list[str]:
        launcher = f"{facts.PREFIX}/{wanted.runtime}/k8slite"
        words = (launcher, "agent", *agent_words(settings))
        service = Service(AGENT, words, "k8slite agent", after=("docker", ETCD))
        return self._serve(service, renewed=renewed, called="agent")

    async def _until_it_listens(self, settings: Settings) -> None:
        """Whoever goes on to the next host when this returns has not stopped two at once."""
        deadline = self._clock.monotonic() + _PATIENCE
        for port in listening_ports(settings).values():
            while not taken(port):
                if self._clock.monotonic() > deadline:
                    raise HostError(f"the agent does not listen on port {port}: see its log")
                await self._clock.sleep(0.1)

    def _serve(self, service: Service, *, renewed: bool, called: str) -> list[str]:
        """Define and run a service; what had to be done for that."""
        runs = self._services.running(service.name)
        changed = self._services.define(service)
        if runs and not changed and not renewed:
            return []
        if runs:
            self._services.restart(service.name)
            self._say(f"{called} started again")
            return [f"{called} restarted"]
        self._services.start(service.name)
        self._say(f"{called} started")
        return [f"{called} started"]

    # -- remove -------------------------------------------------------------------------------

    async def remove(self) -> None:
        """Take everything away and put back what was found. Raises HostError."""
        async with _alone(self._clock):
            if self._services.remove(AGENT):
                self._say("agent stopped")
            if not await self._docker.answers():
                await self._docker.start()  # containers can only be removed through it
            for line in _summary(await self._uninstall(settings_of(self._record.settings))):
                self._say(f"removed {line}")
            if self._services.remove(ETCD):
                self._say("etcd stopped")
            await self._docker.put_back(self._say)
            _remove_data(_DATA, self._record.mounts)
            for folder in (Path(LOGS), Path(RUN)):
                shutil.rmtree(folder, ignore_errors=True)
            # Last: as long as it is there, this host is known to be in a cluster.
            shutil.rmtree(_CONFIG, ignore_errors=True)
        _LOCK.unlink(missing_ok=True)


@asynccontextmanager
async def _alone(clock: Clock) -> AsyncIterator[None]:
    """One at a time changes this host; one whose caller is gone is given time to notice. Raises
    HostError."""
    with _LOCK.open("w") as file:
        deadline = clock.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if clock.monotonic() > deadline:
                    raise HostError(
                        "another k8slite is changing this host: wait for it, then run the same "
                        "again"
                    ) from None
            await clock.sleep(0.1)
        yield


def _summary(removed: list[str]) -> list[str]:
    """What was removed, many things of one kind as one line."""
    kinds: dict[str, list[str]] = {}
    for line in removed:
        kinds.setdefault(line.split()[0], []).append(line)
    many = {"container": "containers", "directory": "directories"}
    return [
        line
        for kind, lines in kinds.items()
        for line in ([f"{len(lines)} {many[kind]}"] if kind in many and lines[1:] else lines)
    ]


def _keep(path: Path, text: str, mode: int) -> bool:
    """Write what differs; did it?"""
    if path.exists() and path.read_text() == text:
        path.chmod(mode)
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write(path, text.encode(), mode)
    return True


def _forget_others(wanted: HostPlan) -> None:
    """Of our own programs, only those that run now stay."""
    for path in Path(facts.PREFIX).iterdir():
        if path.name not in (wanted.runtime, wanted.etcd, "current", "bin"):
            shutil.rmtree(path, ignore_errors=True)


def _mounts_below(folder: Path) -> list[str]:
    """Mount points below a folder, the deepest first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].encode().decode("unicode_escape") for line in lines]
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)


def _remove_data(folder: Path, disks: list[str]) -> None:
    """Remove the data folder. A disk that was mounted below it before us is emptied and stays; one
    that came since is refused. Raises HostError."""
    for point in _mounts_below(folder):
        if point not in disks:
            raise HostError(f"{point} is still mounted: umount it, then run down again")
    if not disks:
        shutil.rmtree(folder, ignore_errors=True)
        return
    kept = {Path(disk) for disk in disks}
    above = {parent for disk in kept for parent in disk.parents}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path in kept or path in above or path.name == "lost+found":
            continue
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
