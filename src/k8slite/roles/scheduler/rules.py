"""Where the rules come from: installed plug-ins and the policy file."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from k8slite.decide.scheduling import policy
from k8slite.decide.scheduling.policy import Policy, PolicyError

PREDICATES = "k8slite.scheduler.predicates"
PRIORITIES = "k8slite.scheduler.priorities"


def installed(group: str) -> dict[str, Any]:
    """The functions of an entry point group by name. Raises PolicyError for one that does not
    load or is no function."""
    found = {}
    for entry in entry_points(group=group):
        try:
            function = entry.load()
        except Exception as error:
            raise PolicyError(f"plug-in {entry.name} ({entry.value}): {error!r}") from error
        if not callable(function):
            raise PolicyError(f"plug-in {entry.name} ({entry.value}): not a function")
        found[entry.name] = function
    return found


def load(path: Path | None) -> Policy:
    """The policy of ``path`` (JSON or YAML), or the default. Raises PolicyError with the file and
    field that is wrong."""
    predicates, priorities = installed(PREDICATES), installed(PRIORITIES)
    if path is None:
        return policy.default(predicates, priorities)
    try:
        document = yaml.safe_load(path.read_text())
        return policy.parse(document, predicates, priorities)
    except OSError as error:
        raise PolicyError(f"scheduler policy {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise PolicyError(f"scheduler policy {path}: {' '.join(str(error).split())}") from error
    except PolicyError as error:
        raise PolicyError(f"scheduler policy {path}: {error}") from error
