"""DOCKER_OPTS: dockerd's flags in, entries of its ``daemon.json`` out. Pure.

The file serves however the daemon is started, and much of it is read again without a restart.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

#: Flags that may be repeated → their key, where each time adds an item.
_LISTS = {
    "insecure-registry": "insecure-registries",
    "registry-mirror": "registry-mirrors",
    "dns": "dns",
    "dns-opt": "dns-opts",
    "dns-search": "dns-search",
    "label": "labels",
    "storage-opt": "storage-opts",
    "exec-opt": "exec-opts",
    "authorization-plugin": "authorization-plugins",
}
_MAPS = {"log-opt": "log-opts"}
_TEXTS = frozenset(
    "bip log-driver log-level storage-driver data-root exec-root cgroup-parent "
    "default-runtime containerd default-shm-size userns-remap".split()
)
_NUMBERS = frozenset(
    "mtu max-concurrent-downloads max-concurrent-uploads max-download-attempts "
    "shutdown-timeout".split()
)
_SWITCHES = frozenset(
    "debug iptables ip-forward ip-masq icc ipv6 live-restore experimental userland-proxy "
    "selinux-enabled no-new-privileges raw-logs".split()
)
_SHORT = {"D": "debug", "l": "log-level", "s": "storage-driver", "g": "data-root"}
_RENAMED = {"graph": "data-root"}

#: Keys that dockerd takes up on SIGHUP; the others need a restart.
RELOADABLE = frozenset(
    "debug labels live-restore max-concurrent-downloads max-concurrent-uploads "
    "max-download-attempts default-runtime authorization-plugins insecure-registries "
    "registry-mirrors shutdown-timeout".split()
)
#: Keys that k8slite's own network rests on.
_OURS = {"iptables": False, "ip-forward": False, "bridge": "none"}


class DockerOptionsError(ValueError):
    """A flag that cannot be passed on; the message names it and what can."""


def parse(text: str) -> dict[str, Any]:
    """The words of DOCKER_OPTS → entries of daemon.json. Raises DockerOptionsError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise DockerOptionsError(f"{text!r} cannot be split into words: {error}") from None
    found: dict[str, Any] = {}
    while words:
        name, value = _flag(words)
        _enter(found, name, value)
    return found


def _flag(words: list[str]) -> tuple[str, str]:
    """Take one flag and its value off the front of ``words``."""
    word = words.pop(0)
    if not word.startswith("-") or word in ("-", "--"):
        raise DockerOptionsError(f"{word!r} is no flag of dockerd; as --insecure-registry=HOST")
    name, equals, value = word.lstrip("-").partition("=")
    if not word.startswith("--"):
        name = _SHORT.get(name, name)
    name = _RENAMED.get(name, name)
    if name in _SWITCHES:
        return name, value if equals else "true"
    if name not in _LISTS and name not in _MAPS and name not in _TEXTS | _NUMBERS:
        known = ", ".join(f"--{n}" for n in sorted({*_LISTS, *_MAPS, *_TEXTS, *_SWITCHES}))
        raise DockerOptionsError(f"--{name} is not passed on to Docker; what is: {known}")
    if not equals:
        if not words:
            raise DockerOptionsError(f"--{name} lacks its value")
        value = words.pop(0)
    return name, value


def _enter(found: dict[str, Any], name: str, value: str) -> None:
    if name in _LISTS:
        found.setdefault(_LISTS[name], []).append(value)
    elif name in _MAPS:
        key, equals, rest = value.partition("=")
        if not equals:
            raise DockerOptionsError(f"--{name} {value!r}: as --{name} key=value")
        found.setdefault(_MAPS[name], {})[key] = rest
    elif name in _SWITCHES:
        if value not in ("true", "false"):
            raise DockerOptionsError(f"--{name}={value}: true or false")
        found[name] = value == "true"
    elif name in _NUMBERS:
        try:
            found[name] = int(value)
        except ValueError:
            raise DockerOptionsError(f"--{name} {value!r}: a number") from None
    else:
        found[name] = value
    for key, never in _OURS.items():
        if key in found and found[key] == never:
            raise DockerOptionsError(f"--{name}={value}: pods could not reach anything that way")


def merged(text: str, wanted: Mapping[str, Any]) -> tuple[str, set[str]]:
    """daemon.json with ``wanted`` in it, and the keys that changed; lists and maps grow.

    ``text`` is the file as it is, "" for none. Raises DockerOptionsError when it is no JSON object.
    """
    try:
        document = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise DockerOptionsError(f"daemon.json is no JSON ({error}): mend it first") from None
    if not isinstance(document, dict):
        raise DockerOptionsError("daemon.json holds no JSON object: mend it first")
    changed = set()
    for key, value in wanted.items():
        had = document.get(key)
        new: Any = value
        if isinstance(value, list) and isinstance(had, list):
            new = [*had, *(item for item in value if item not in had)]
        elif isinstance(value, dict) and isinstance(had, dict):
            new = {**had, **value}
        if new != had:
            document[key] = new
            changed.add(key)
    return json.dumps(document, indent=2) + "\n" if changed else text, changed
