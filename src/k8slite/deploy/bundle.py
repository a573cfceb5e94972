"""What travels to a host that has no Python: this very interpreter, its libraries and k8slite.

A tree that runs wherever it is unpacked, on any host of the same kind with as new a C library::

    k8slite              the launcher (sh)
    boot.py              what it starts
    bin/python3.11       the interpreter, its shared libraries in lib
    lib/python3.11/      the standard library without what only developers need
    site/                k8slite and what it requires, compiled

Packed once, named by the digest of its content, kept in a cache. etcd is a bundle of its own, for
masters alone.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from k8slite.deploy.facts import PREFIX

#: Part of the cache's key: raise it when the tree is put together in another way.
_FORMAT = "1"

_STDLIB_WITHOUT = frozenset(
    "test tests idlelib tkinter turtledemo turtle.py lib2to3 ensurepip venv pydoc_data "
    "site-packages dist-packages __pycache__ __phello__ xdrlib.py antigravity.py this.py".split()
)
_DYNLOAD_WITHOUT = re.compile(
    r"(_tkinter|_test\w*|_xxtestfuzz|xxlimited\w*|_ctypes_test|_gdbm|_dbm|_curses\w*|readline)\."
)
_PACKAGES_WITHOUT = frozenset(("tests", "__pycache__"))
_SOURCES_OF_C = (".c", ".h", ".pyx", ".pxd", ".pyi", ".pxi", ".cpp", ".hpp", ".a")
#: Entry points through which others extend k8slite: whoever has one travels along.
_PLUGINS = "k8slite."

#: What comes with the host's C library, and what must match its kernel's tools.
_OF_THE_HOST = re.compile(
    r"(ld-linux.*|linux-vdso|linux-gate|libc|libm|libmvec|libpthread|libdl|librt|libutil|libresolv|"
    r"libanl|libBrokenLocale|libthread_db|libnss_\w+|libxtables|libip4tc|libip6tc|libiptc)\.so.*"
)

_LAUNCHER = f"""\
#!/bin/sh
# Starts k8slite with the interpreter that came along; boot.py takes LD_LIBRARY_PATH away again.
root=$(cd "$(dirname "$(readlink -f "$0")")" && pwd -P)
LD_LIBRARY_PATH=$root/{sys.platlibdir}
export LD_LIBRARY_PATH
exec "$root/bin/{{python}}" -I -S "$root/boot.py" "$@"
"""
_BOOT = '''\
"""Starts k8slite from the tree that this file lies in."""

import os
import sys

# It is read when a process starts: our own children are none of its business.
os.environ.pop("LD_LIBRARY_PATH", None)
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "site"))

from k8slite.cli.main import main

main()
'''

Say = Callable[[str], None]


class BundleError(Exception):
    """Nothing that could travel can be made here; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An archive (tar, gzip). ``libc`` is the oldest C library that will do, as 2.34."""

    digest: str
    archive: str
    unpacked: int  # bytes
    libc: str
    arch: str

    @property
    def folder(self) -> str:
        """Where it is unpacked on a host."""
        return f"{PREFIX}/{self.digest}"


def cache_folder() -> Path:
    """``$K8SLITE_CACHE``, or a folder of ours in the user's cache."""
    if named := os.environ.get("K8SLITE_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "k8slite"


def runtime(cache: Path, say: Say = lambda _: None) -> Bundle:
    """The bundle of this interpreter and k8slite as they are now. Raises BundleError."""
    packages = _packages()
    key = _fingerprint(packages)

    def fill(tree: Path) -> None:
        say("... packing k8slite and its Python (once)")
        _interpreter(tree)
        _site(tree / "site", packages)
        _libraries(tree)
        _compile(tree)

    return _cached(cache, f"runtime-{key}", fill)


def etcd(cache: Path) -> Bundle:
    """etcd and etcdctl of this machine. Raises BundleError."""
    found = {name: shutil.which(name) for name in ("etcd", "etcdctl")}
    for name in found:
        # On a host that k8slite was installed on there is the one that travelled there.
        travelled = sorted(Path(PREFIX).glob(f"etcd-*/{name}"))
        if found[name] is None and travelled:
            found[name] = str(travelled[-1])
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise BundleError(
            f"{' and '.join(missing)} not found on this machine: apt-get install etcd-server "
            "etcd-client (or put them on PATH); masters get a copy"
        )
    paths = [Path(path).resolve() for path in found.values() if path]
    key = hashlib.sha256(
        "".join(
            f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in paths
        ).encode()
    ).hexdigest()

    def fill(tree: Path) -> None:
        for name, path in zip(found, paths, strict=True):
            _copy(path, tree / name)

    return _cached(cache, f"etcd-{key[:16]}", fill, prefix="etcd-")


def _cached(cache: Path, name: str, fill: Callable[[Path], None], prefix: str = "") -> Bundle:
    """The bundle of this name from the cache, or made by ``fill`` in a new folder."""
    note = cache / f"{name}.json"
    try:
        known = Bundle(**json.loads(note.read_text()))
        if Path(known.archive).exists():
            return known
    except (OSError, ValueError, TypeError):
        pass
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as folder:
            tree = Path(folder) / "tree"
            tree.mkdir()
            fill(tree)
            made = _pack(tree, Path(folder) / "archive", cache, prefix)
            draft = Path(folder) / "note"
            draft.write_text(json.dumps(asdict(made)))
            draft.replace(note)
    except OSError as error:
        raise BundleError(f"{error.filename or cache}: {error.strerror or error}") from None
    _forget(cache, note, f"{name.partition('-')[0]}-", made)
    return made


def _forget(cache: Path, keep: Path, kind: str, made: Bundle) -> None:
    """Old bundles of this kind go; the newest five stay."""
    notes = sorted(cache.glob(f"{kind}*.json"), key=lambda path: path.stat().st_mtime)
    for note in notes[:-5]:
        try:
            archive = Path(json.loads(note.read_text())["archive"])
        except (OSError, ValueError, KeyError):
            continue
        if note != keep and str(archive) != made.archive:
            note.unlink(missing_ok=True)
            archive.unlink(missing_ok=True)


# -- what belongs to it -----------------------------------------------------------------------


def _packages() -> dict[str, metadata.Distribution]:
    """k8slite, whoever extends it, and all that they require, by normal name."""
    found: dict[str, metadata.Distribution] = {}
    waiting = ["k8slite"]
    for distribution in metadata.distributions():
        if any(point.group.startswith(_PLUGINS) for point in distribution.entry_points):
            waiting.append(distribution.metadata["Name"])
    while waiting:
        name = waiting.pop()
        normal = re.sub(r"[-_.]+", "-", name).lower()
        if normal in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # required on other systems only, or else nothing here would have run
        found[normal] = distribution
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement and (match := re.match(r"[\w.-]+", requirement)):
                waiting.append(match[0])
    if "k8slite" not in found:
        raise BundleError("k8slite is not installed here: pip install -e . (or make up) first")
    return found


def _own_package() -> Path:
    return Path(__file__).resolve().parents[1]


def _fingerprint(packages: dict[str, metadata.Distribution]) -> str:
    """Changes whenever the bundle would."""
    binary = _binary()
    parts = [_FORMAT, sys.version, str(binary), str(binary.stat().st_mtime_ns)]
    parts += [f"{name} {one.version}" for name, one in sorted(packages.items())]
    own = _own_package()
    for path in sorted(own.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            stat = path.stat()
            parts.append(f"{path.relative_to(own)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _binary() -> Path:
    """The interpreter itself, behind all links and environments."""
    return Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()


def _interpreter(tree: Path) -> None:
    """The binary, the standard library, launcher and boot.py."""
    binary = _binary()
    _copy(binary, tree / "bin" / binary.name)
    source = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix}))
    target = tree / sys.platlibdir / source.name

    def without(folder: str, names: list[str]) -> list[str]:
        top = Path(folder) == source
        dropped = [n for n in names if n == "__pycache__" or (n in ("test", "tests") and not top)]
        if top:
            dropped += [n for n in names if n in _STDLIB_WITHOUT or n.startswith("config-")]
        if Path(folder).name == "lib-dynload":
            dropped += [n for n in names if _DYNLOAD_WITHOUT.match(n)]
        return dropped

    shutil.copytree(source, target, ignore=without, symlinks=False)
    dynload = Path(sysconfig.get_config_var("DESTSHARED") or source / "lib-dynload")
    if dynload.is_dir() and not (target / "lib-dynload").exists():
        shutil.copytree(dynload, target / "lib-dynload", ignore=without)
    launcher = tree / "k8slite"
    launcher.write_text(_LAUNCHER.replace("{python}", binary.name))
    launcher.chmod(0o755)
    (tree / "boot.py").write_text(_BOOT)


def _site(site: Path, packages: dict[str, metadata.Distribution]) -> None:
    """The packages, and of each the notes by which it is found again."""
    for name, distribution in packages.items():
        for relative, path in _files(distribution):
            if name != "k8slite" or ".dist-info" in relative.parts[0]:
                _copy(path, site / relative)
    own = _own_package()
    # It may be installed as a link to a checkout: the package itself is what runs here.
    shutil.copytree(
        own, site / own.name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )


def _files(distribution: metadata.Distribution) -> Iterator[tuple[Path, Path]]:
    """A distribution's files that are needed to run it: relative path, where it is."""
    for file in distribution.files or ():
        parts = file.parts
        if parts[0] == ".." or file.is_absolute() or _PACKAGES_WITHOUT & set(parts):
            continue
        if file.suffix in (*_SOURCES_OF_C, ".pth") or file.name == "direct_url.json":
            continue
        path = Path(str(file.locate()))
        if path.is_file():
            yield Path(*parts), path


# -- shared libraries -------------------------------------------------------------------------


def _elves(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def _libraries(tree: Path) -> None:
    """Copy into ``lib`` what the tree's binaries need and a host may lack; drop debug tables."""
    needed = {library.name: library for library in _needed(tree)}
    for name, path in needed.items():
        _copy(path, tree / sys.platlibdir / name)
    if strip := shutil.which("strip"):
        large = [path for path in _elves(tree) if path.stat().st_size > 1 << 20]
        # What cannot be stripped travels as it is.
        subprocess.run([strip, "--strip-debug", *map(str, large)], check=False, capture_output=True)


def _library_path() -> str:
    """Where this interpreter's libraries are; it may itself be one that travelled here."""
    built = sysconfig.get_config_var("LIBDIR") or ""
    return f"{built}:{sys.base_prefix}/{sys.platlibdir}"


def _needed(tree: Path) -> Iterator[Path]:
    """Libraries outside of the tree, under the names by which they are asked for."""
    environment = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": _library_path()}
    try:
        listing = subprocess.run(
            ["ldd", *map(str, _elves(tree))],
            capture_output=True, text=True, check=False, env=environment,
        ).stdout  # fmt: skip
    except FileNotFoundError:
        raise BundleError("ldd is not installed: it comes with the C library (libc-bin)") from None
    missing = set()
    for line in listing.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if not arrow or _OF_THE_HOST.fullmatch(Path(name).name):
            continue
        path = rest.split(" (")[0].strip()
        if path == "not found":
            missing.add(name)
        elif not path.startswith(f"{tree}/"):
            # Under the name that is asked for, which may be a link.
            yield Path(path).with_name(name) if Path(path).with_name(name).exists() else Path(path)
    if missing:
        raise BundleError(f"shared libraries are missing here: {', '.join(sorted(missing))}")


def _oldest_libc(paths: Iterable[Path]) -> str:
    """The newest version of the C library's symbols that any of the binaries asks for."""
    newest = (2, 17)
    for path in paths:
        for match in re.finditer(rb"\bGLIBC_(\d+)\.(\d+)", path.read_bytes()):
            newest = max(newest, (int(match[1]), int(match[2])))
    return ".".join(map(str, newest))


# -- packing ----------------------------------------------------------------------------------


def _compile(tree: Path) -> None:
    """Compiled once here, checked against nothing there: the tree does not change."""
    words = [
        *(sys.executable, "-I", "-m", "compileall", "-q", "-j", "0", "-r", "40"),
        *("--invalidation-mode", "unchecked-hash", "-s", str(tree), "-p", PREFIX, str(tree)),
    ]
    environment = {**os.environ, "LD_LIBRARY_PATH": _library_path()}
    # Some files of a standard library are bad on purpose: the exit code says little.
    subprocess.run(words, check=False, capture_output=True, env=environment)
    if not list((tree / "site" / "k8slite" / "__pycache__").glob("*.pyc")):
        raise BundleError("k8slite's own modules do not compile: is this checkout whole?")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=True)


def _pack(tree: Path, draft: Path, cache: Path, prefix: str) -> Bundle:
    """The same tree gives the same archive, byte for byte."""
    unpacked = 0

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    with draft.open("wb") as file:
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
            with tarfile.open(fileobj=packed, mode="w", bufsize=1 << 20) as archive:
                for path in sorted(tree.rglob("*")):
                    archive.add(path, path.relative_to(tree), recursive=False, filter=plain)
                    unpacked += path.lstat().st_size if path.is_file() else 0
    with draft.open("rb") as written:
        digest = prefix + hashlib.file_digest(written, "sha256").hexdigest()[:16]
    target = cache / f"{digest}.tar.gz"
    draft.replace(target)
    libc = _oldest_libc(_elves(tree))
    return Bundle(digest, str(target), unpacked, libc, platform.machine())
