"""The article's machines: node1 to node3 with Docker and sshd, and conf, which sets them up."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.lab.host import Host
from tests.lab.machine import remove_groups
from tests.lab.network import Namespace, Switch
from tests.lab.root import Build, host_key, keygen
from tests.lab.site import ROOT, build_images

IMAGES = ROOT / ".k8slite" / "images"
_PREFIX = "k8slab-"
_OWNER = "owner"  # locked while the lab lives; names its namespaces
ADDRESSES = {
    "node1": "192.168.0.10",
    "node2": "192.168.0.11",
    "node3": "192.168.0.12",
    "conf": "192.168.0.100",
}


class Lab:
    """Four machines on one switch; ``nodes`` in the article's order."""

    def __init__(self, hosts: dict[str, Host], switch: Switch, directory: Path) -> None:
        self.hosts = hosts
        self.switch = switch
        self.directory = directory
        self.conf = hosts["conf"]
        self.nodes = [host for name, host in hosts.items() if name != "conf"]

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def ssh(self, node: Host, *words: str, check: bool = True) -> str:
        """A command on a node, the way an operator runs one from conf."""
        return self.conf.run(
            "ssh", "-o", "BatchMode=yes", f"core@{node.address}", *words, check=check
        )


def _shares() -> list[Path]:
    """What conf shares with the machine: this checkout and its Python."""
    wanted = {ROOT, Path(sys.prefix), Path(sys.base_prefix)} - {Path("/usr")}
    return [path for path in sorted(wanted) if not any(p in wanted for p in path.parents)]


@contextmanager
def lab(
    *,
    images: bool = True,
    sudo_asks: tuple[str, ...] = (),
    nodes: int = 3,
    checkout: bool = False,
    disks: Mapping[str, Mapping[str, int]] | None = None,
) -> Iterator[Lab]:
    """Boot the machines; they are ready when this is entered and gone when it is left.

    ``sudo_asks``: names of the nodes on which sudo wants core's password (root.PASSWORD).
    ``checkout``: nodes have etcd, Python and this checkout, as conf does, and are not bare.
    ``disks``: node → folder → MiB, where a folder is to be a disk of its own.
    """
    sweep()
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    names = [*list(ADDRESSES)[:nodes], "conf"]
    addresses = {name: ADDRESSES[name] for name in names}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        mine = stack.enter_context((directory / "locking").open("w"))
        fcntl.flock(mine, fcntl.LOCK_EX)
        (directory / "locking").rename(directory / _OWNER)  # never seen unlocked while we live
        keygen(directory / "id_ed25519", "root@conf")
        authorized = (directory / "id_ed25519.pub").read_text()
        switch = stack.enter_context(Switch())
        hosts: dict[str, Host] = {}
        for name, address in addresses.items():
            conf = name == "conf"
            bare = not (conf or checkout)
            build = Build(
                name=name,
                neighbours=addresses,
                authorized=authorized,
                docker=not conf,
                bare=bare,
                sudo_asks=name in sudo_asks,
            )
            hosts[name] = Host(
                switch,
                directory / name,
                address,
                build,
                shares=() if bare else _shares(),
                environment=None if bare else _environment(),
                disks=(disks or {}).get(name),
            )
        print(switch.name, *(host.namespace.name for host in hosts.values()), file=mine, flush=True)
        pool = stack.enter_context(ThreadPoolExecutor(len(hosts)))
        stack.callback(lambda: _all(pool, [host.remove for host in hosts.values()]))
        _all(pool, [host.prepare for host in hosts.values()])
        _conf_home(directory, hosts)
        for host in hosts.values():  # from this thread: a host dies with the one that starts it
            host.power_on()
        _all(pool, [host.wait_booted for host in hosts.values()])
        made = Lab(hosts, switch, directory)
        if images:
            _load_images(pool, made.nodes)
        yield made


def sweep() -> None:
    """Take away what labs left whose process was killed; their machines died with it."""
    for owner in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        with contextlib.suppress(OSError), owner.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while somebody lives there
            for name in file.read().split():
                remove_groups(name)
                namespace = Namespace(name)
                namespace.name = name
                with contextlib.suppress(RuntimeError):  # it was not plugged in yet
                    namespace.__exit__(None, None, None)
            shutil.rmtree(owner.parent, ignore_errors=True)


def _all(pool: ThreadPoolExecutor, calls: Iterable[Callable[[], object]]) -> None:
    """Run them all at once, and all to their end; then the first failure is raised."""
    done = [pool.submit(call) for call in calls]
    wait(done)
    for one in done:
        one.result()


def _environment() -> dict[str, str]:
    scripts = Path(sys.prefix) / "bin"
    return {"PATH": f"{scripts}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def _conf_home(directory: Path, hosts: dict[str, Host]) -> None:
    """conf's ssh key, and the host keys of the nodes, as if it had logged in before."""
    ssh = directory / "conf/root/root/.ssh"
    ssh.mkdir(mode=0o700)
    for name in ("id_ed25519", "id_ed25519.pub"):
        shutil.copy(directory / name, ssh / name)
    (ssh / "known_hosts").write_text(
        "".join(
            f"{host.name},{host.address} {host_key(host.directory)}\n" for host in hosts.values()
        )
    )


def _load_images(pool: ThreadPoolExecutor, nodes: list[Host]) -> None:
    """busybox and nginx on every node; packed once a checkout, by the first."""
    first = 0 if all((IMAGES / f"{name}.tar").exists() for name in ("busybox", "nginx")) else 1
    for node in nodes[:first]:
        build_images(node.docker_url)
    _all(pool, [partial(build_images, node.docker_url) for node in nodes[first:]])
