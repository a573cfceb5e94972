"""The article's site: `conf`, three bare hosts, and what an operator sees on them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping

from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.root import PASSWORD
from tests.lab.site import ROOT

SERVER = "http://192.168.0.10:8080"
CONFIG = "/root/config-default.sh"

#: The article's file, its slip mended, with a registry of the site's own.
ARTICLE = """\
## Contains configuration values for the Ubuntu cluster
export nodes="core@192.168.0.10 core@192.168.0.11 core@192.168.0.12"
# Определяем роли нод : a(master) или i(minion) или ai(master и minion)
export roles=("ai" "i" "i")
export NUM_MINIONS=${NUM_MINIONS:-3}
export PORTAL_NET=192.168.3.0/24
export FLANNEL_NET=172.16.0.0/16
ADMISSION_CONTROL=NamespaceLifecycle,NamespaceAutoProvision,LimitRanger,ResourceQuota
DOCKER_OPTS="--insecure-registry conf:5000"
"""

#: What a host is, as its operator sees it.
_VIEWS = (
    "iptables-save",
    "ip addr",
    "ip route",
    "docker ps -a",
    "docker network ls",
    "docker volume ls",
    "docker images -a --no-trunc --format '{{.Repository}} {{.ID}}' | sort",
    "docker info --format '{{json .RegistryConfig.InsecureRegistryCIDRs}}'",
    "docker info --format '{{range $name, $_ := .RegistryConfig.IndexConfigs}}{{$name}} {{end}}'",
    "ps axo args | sort",
    "cat /etc/docker/daemon.json",
    "find /etc ! -type d -newer /run/booted | sort",
    "find /etc | sort",
    "ls -A /opt /var/lib /var/log /var/lib/k8slite /run/k8slite",
    "cat /proc/sys/net/ipv4/ip_forward",
)
_NOISE = (
    re.compile(r"^# .*$", re.MULTILINE),
    re.compile(r"\[\d+:\d+\]"),  # counters
    re.compile(r"valid_lft .*$", re.MULTILINE),
    re.compile(r"(\d+ (second|minute)s?|Less than a second|About a minute)( ago)?"),
    re.compile(r"tentative"),
    re.compile(r"^containerd$", re.MULTILINE),  # its own, at its first container
    re.compile(r"^(sh -c .*|ps axo args|sort|sshd: .*core.*)$", re.MULTILINE),
)


def views(host: Host) -> dict[str, str]:
    found = {}
    for view in _VIEWS:
        text = host.sh(f"{view} 2>&1", check=False)
        for noise in _NOISE:
            text = noise.sub("", text)
        lines = [re.sub(" +", " ", line).strip() for line in text.splitlines()]
        found[view] = "\n".join(line for line in lines if line)
    return found


def lasting(found: dict[str, str]) -> dict[str, str]:
    """Those of the views that a reboot does not change by itself."""
    passing = ("ip addr", "docker network ls", "find /etc ! -type d -newer /run/booted | sort")
    return {view: text for view, text in found.items() if view not in passing}


class Conf:
    """Somebody at the keyboard of `conf`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.host = lab.conf
        self.write(CONFIG, ARTICLE)

    def write(self, path: str, text: str) -> str:
        self.host.path(path).write_text(text)
        return path

    def next_version(self) -> str:
        """Make a k8slite that differs from the one of this checkout; its PYTHONPATH."""
        package = self.host.path("/root/next/k8slite")
        shutil.copytree(ROOT / "src" / "k8slite", package)
        with (package / "__init__.py").open("a") as file:
            file.write("\n# The next version.\n")
        return "/root/next"

    def _line(self, words: tuple[str, ...], environment: Mapping[str, str]) -> list[str]:
        settings = {
            "K8SLITE_CACHE": str(ROOT / ".k8slite" / "bundles"),
            "K8SLITE_SUDO_PASSWORD": PASSWORD,
            **environment,
        }
        pairs = (f"{name}={value}" for name, value in settings.items())
        return self.host.inside("env", *pairs, "k8slite", *words)

    def k8slite(self, *words: str, **environment: str) -> str:
        """A command that succeeds; what it printed."""
        done = self.tried(*words, **environment)
        assert done.returncode == 0, f"k8slite {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def tried(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        line = self._line(words, environment)
        return subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)

    def refused(self, *words: str, **environment: str) -> list[str]:
        """A command that is refused; the reasons, one a line."""
        done = self.tried(*words, **environment)
        assert done.returncode == 1, done.stdout
        lines = done.stderr.splitlines()
        assert all(line.startswith("k8slite: ") for line in lines), done.stderr
        return [line.removeprefix("k8slite: ") for line in lines]

    def broken_off(self, *words: str, at: Callable[[str], bool]) -> None:
        """Start a command and kill it as soon as it prints a certain line."""
        process = subprocess.Popen(
            self._line(words, {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if at(line):
                break
        else:
            raise AssertionError("it ended before: " + "".join(seen))
        self.host.run("pkill", "-KILL", "-f", "bin/k8slite")
        process.wait(30)
        process.stdout.close()

    def ctl(self, *words: str) -> str:
        return self.k8slite("ctl", "-s", SERVER, *words)

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        self.host.until(condition, what, seconds)


def containers(host: Host) -> list[str]:
    """Ids of the nginx containers of pods that run here."""
    return sorted(host.docker("ps", "-q", "--no-trunc", "--filter", "name=k8s_nginx").split())
