"""The root file system of a host of the lab, as ``boot.sh`` mounts it.

A machine with Debian, Docker and sshd and nothing else: /usr and /etc are overlays over the
machine's own, so that programs are shared and changes stay the host's; everything else is the
host's own and begins empty. What a bare host would not have (Python, etcd, kubectl, a registry) is
hidden. Plain folders below ``directory``; only the two overlays and the kernel's file systems are
mounted, by the host itself, in a mount namespace that takes them along when it ends.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

USER = "core"
PASSWORD = "core"
_UID = 1000

#: Below /usr, hidden from a bare host.
_NOT_BARE = (
    "bin/*python*", "bin/pip*", "bin/py3*", "bin/pydoc*", "bin/pygettext*", "lib/python*",
    "lib/*/libpython*", "lib/*/libsqlite3*", "share/python*", "include",
    "bin/etcd*", "bin/kubectl", "bin/docker-registry", "sbin/haproxy", "sbin/nginx",
)  # fmt: skip

_FOLDERS = {
    "boot": 0o755, "dev": 0o755, "home": 0o755, "media": 0o755, "mnt": 0o755, "opt": 0o755,
    "proc": 0o555, "root": 0o700, "run": 0o755, "srv": 0o755, "sys": 0o555, "tmp": 0o1777,
    "usr": 0o755, "etc": 0o755, "var": 0o755, "var/lib": 0o755, "var/log": 0o755,
    "var/cache": 0o755, "var/tmp": 0o1777, "var/spool": 0o755, "var/lib/docker": 0o710,
}  # fmt: skip

_SSHD = """HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
PasswordAuthentication no
UsePAM no
UseDNS no
MaxStartups 100
Subsystem sftp internal-sftp
"""

#: What runs when the host boots: what Debian would start, then whatever was installed here.
_RC = """#!/bin/sh
{starts}for script in /etc/init.d/k8slite*; do
    [ ! -x "$script" ] || "$script" start
done >>/var/log/boot.log 2>&1 </dev/null
exit 0
"""


@dataclass(frozen=True)
class Build:
    """What a host's root is to be."""

    name: str
    neighbours: Mapping[str, str]  # name → address, for /etc/hosts
    authorized: str = ""  # public keys that may log in as core
    docker: bool = True
    bare: bool = True  # without Python and the like
    sudo_asks: bool = False  # core's sudo wants the password
    daemons: Sequence[str] = field(default=("ssh", "docker"))


def prepare(directory: Path, build: Build) -> None:
    """Make ``root``, ``usr.*`` and ``etc.*`` below ``directory``, which must be on a disk whose
    files may carry trusted attributes (overlayfs marks what is hidden with them)."""
    root = directory / "root"
    for name, mode in _FOLDERS.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "var/run").symlink_to("/run")
    (root / "var/lock").symlink_to("/run/lock")
    for tree in ("usr", "etc"):
        for layer in ("upper", "work"):
            (directory / f"{tree}.{layer}").mkdir()
            (directory / f"{tree}.{layer}").chmod(0o755)
    _usr(directory / "usr.upper", build)
    _etc(directory / "etc.upper", build)
    _home(root, build)


def host_key(directory: Path) -> str:
    """The host's public key, as known_hosts has it."""
    return (directory / "etc.upper/ssh/ssh_host_ed25519_key.pub").read_text().rsplit(" ", 1)[0]


def keygen(path: Path, comment: str) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], check=True
    )


def _hide(upper: Path, name: str) -> None:
    """A whiteout: a character device 0/0 in the upper layer."""
    (upper / name).parent.mkdir(parents=True, exist_ok=True)
    os.mknod(upper / name, stat.S_IFCHR, os.makedev(0, 0))


def _opaque(folder: Path) -> None:
    """A folder that shows nothing of the lower layer."""
    folder.mkdir(parents=True)
    os.setxattr(folder, "trusted.overlay.opaque", b"y")


def _usr(upper: Path, build: Build) -> None:
    _opaque(upper / "local")
    for name in ("bin", "sbin", "lib", "share"):
        (upper / "local" / name).mkdir()
    hidden = {
        str(path.relative_to("/usr"))
        for pattern in (_NOT_BARE if build.bare else ())
        for path in Path("/usr").glob(pattern)
    }
    for name in sorted(hidden):
        _hide(upper, name)


def _etc(upper: Path, build: Build) -> None:
    """Its name, its users, its sshd; nothing of how the machine itself is set up."""
    own = {
        "hostname": f"{build.name}\n",
        "hosts": "127.0.0.1 localhost\n"
        + "".join(f"{address} {name}\n" for name, address in build.neighbours.items()),
        "resolv.conf": "",
        # With this line Debian's script for Docker takes the cgroups to be mounted; they are.
        "fstab": "cgroup /sys/fs/cgroup cgroup defaults 0 0\n",
        "default/docker": "# DOCKER_OPTS=\n",
        "ssh/sshd_config": _SSHD,
        "ssh/ssh_config": "",
    }
    _opaque(upper / "ssh")
    _opaque(upper / "docker")
    _opaque(upper / "sudoers.d")
    for name, text in own.items():
        (upper / name).parent.mkdir(exist_ok=True)
        (upper / name).write_text(text)
    _docker_script(upper)
    keygen(upper / "ssh/ssh_host_ed25519_key", f"root@{build.name}")
    _users(upper)
    rule = "(ALL) ALL" if build.sudo_asks else "(ALL) NOPASSWD: ALL"
    (upper / "sudoers.d/core").write_text(f"{USER} ALL={rule}\n")
    (upper / "sudoers.d/core").chmod(0o440)
    daemons = [name for name in build.daemons if name != "docker" or build.docker]
    starts = "".join(f"/etc/init.d/{name} start >>/var/log/boot.log 2>&1\n" for name in daemons)
    (upper / "rc.local").write_text(_RC.format(starts=starts))
    (upper / "rc.local").chmod(0o755)
    for script in Path("/etc/init.d").glob("k8slite*"):  # of a cluster on the machine itself
        _hide(upper, f"init.d/{script.name}")


def _docker_script(upper: Path) -> None:
    """Debian's own script; limits that the machine may not raise are left as they are."""
    script = Path("/etc/init.d/docker").read_text()
    (upper / "init.d").mkdir(exist_ok=True)
    (upper / "init.d/docker").write_text(re.sub(r"(?m)^(\s*ulimit .*)$", r"\1 || true", script))
    (upper / "init.d/docker").chmod(0o755)


def _users(upper: Path) -> None:
    """The machine's system users, and ``core``; none of its people."""
    rows = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    people = {row[0] for row in rows if int(row[2]) in range(1000, 60000)} | {USER}

    def lines(name: str) -> list[str]:
        kept = Path("/etc", name).read_text().splitlines()
        return [line for line in kept if line.split(":")[0] not in people]

    secret = subprocess.run(
        ["openssl", "passwd", "-6", PASSWORD], capture_output=True, text=True, check=True
    ).stdout.strip()
    added = {
        "passwd": f"{USER}:x:{_UID}:{_UID}::/home/{USER}:/bin/bash",
        "group": f"{USER}:x:{_UID}:",
        "shadow": f"{USER}:{secret}:19000:0:99999:7:::",
    }
    for name, line in added.items():
        (upper / name).write_text("\n".join([*lines(name), line, ""]))
        shutil.copymode(Path("/etc", name), upper / name)


def _home(root: Path, build: Build) -> None:
    home = root / "home" / USER
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh/authorized_keys").write_text(build.authorized)
    for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
        os.chown(path, _UID, _UID)
