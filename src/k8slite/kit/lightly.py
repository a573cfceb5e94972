"""Importing a library without the parts of it that a small process has no use for.

A process that is idle most of the time is judged by its memory, and some libraries load much more
than was asked for. Each use says what it saves; what was kept away can be imported afterwards.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

#: What is done to ``sys.modules`` meanwhile concerns all threads: one at a time.
_ALONE = threading.RLock()


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Make imports of ``names`` raise ImportError meanwhile, as if they were not installed: for
    libraries that are content without."""
    nothing: Any = None  # what import takes for "known to be missing"
    with _ALONE:
        known = {name: sys.modules.get(name) for name in names}
        sys.modules.update(dict.fromkeys(names, nothing))
        try:
            yield
        finally:
            for name, module in known.items():
                if module is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = module


@contextmanager
def only_parts(package: str) -> Iterator[None]:
    """Import modules of ``package`` meanwhile without running the package's own ``__init__``,
    which would load all of it. Raises ImportError when there is no such package."""
    with _ALONE:
        spec = find_spec(package)
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError(f"no package {package}")
        known = sys.modules.get(package)
        if known is None:
            bare = ModuleType(package)
            bare.__path__ = list(spec.submodule_search_locations)
            sys.modules[package] = bare
        try:
            yield
        finally:
            if known is None:
                del sys.modules[package]
