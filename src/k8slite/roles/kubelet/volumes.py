"""Volumes on the host's disk: made before a pod's containers, kept up to date, removed after.

Everything of a pod lies in ``<data_dir>/pods/<uid>``: ``volumes/<name>`` and ``ends/`` with the
termination messages. Memory-backed volumes and secrets are tmpfs mounts; the kernel's own table
of mounts (/proc/self/mountinfo) says what is to be unmounted, so a crash forgets nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from k8slite.api import quantity
from k8slite.api.kinds.pod.types import HostPathVolumeSource, Pod, Volume
from k8slite.decide.pods.env import ConfigError, PodContext
from k8slite.decide.pods.files import File, volume_files

_MS_NOSUID, _MS_NODEV = 2, 4
_MNT_DETACH = 2
_DATA, _NEXT = "..data", "..data_next"


class VolumeTrouble(Exception):
    """A volume cannot be had; the text names it and says why."""


class PodFiles(Protocol):
    """What the kubelet asks of a pod's files; ``Volumes`` keeps them on disk."""

    def known(self) -> list[str]:
        """Uids of pods that have files."""
        ...

    def paths(self, pod: Pod) -> dict[str, str]:
        """Where each volume lies on the host."""
        ...

    async def set_up(self, pod: Pod, context: PodContext) -> None:
        """Make all volumes of the pod, or bring them up to date. Raises VolumeTrouble."""
        ...

    async def clean(self, uid: str) -> None:
        """Remove everything of a pod; nothing there is fine."""
        ...

    def end_file(self, uid: str, container: str, attempt: int) -> Path:
        """Where the container's termination message is written."""
        ...

    def new_end_file(self, uid: str, container: str, attempt: int) -> Path:
        """The same, made ready for the container to write."""
        ...


class Volumes:
    """The volumes of all pods of this node, below ``data_dir/pods``."""

    def __init__(self, data_dir: Path) -> None:
        self._pods = data_dir / "pods"
        self._libc = ctypes.CDLL(None, use_errno=True)

    def known(self) -> list[str]:
        """Uids of pods that have a directory."""
        try:
            return sorted(entry.name for entry in os.scandir(self._pods))
        except FileNotFoundError:
            return []

    def paths(self, pod: Pod) -> dict[str, str]:
        """Where each volume lies on the host."""
        base = self._pods / pod.metadata.uid / "volumes"
        return {
            volume.name: volume.host_path.path
            if volume.host_path is not None
            else str(base / volume.name)
            for volume in pod.spec.volumes
        }

    async def set_up(self, pod: Pod, context: PodContext) -> None:
        """Make all volumes of the pod, or bring them up to date. Raises VolumeTrouble."""
        if pod.spec.volumes:
            await asyncio.to_thread(self._set_up, pod, context)

    async def clean(self, uid: str) -> None:
        """Unmount and remove everything of a pod; nothing there is fine."""
        if (self._pods / uid).exists():
            await asyncio.to_thread(self._clean, uid)

    async def clean_all(self) -> list[str]:
        """``clean`` for every pod there is; says which directories were removed."""
        uids = self.known()
        for uid in uids:
            await self.clean(uid)
        return [f"directory {self._pods / uid}" for uid in uids]

    def end_file(self, uid: str, container: str, attempt: int) -> Path:
        """Where the container's termination message is written."""
        return self._pods / uid / "ends" / f"{container}-{attempt}"

    def new_end_file(self, uid: str, container: str, attempt: int) -> Path:
        path = self.end_file(uid, container, attempt)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        path.touch()
        path.chmod(0o666)  # any user in the container may write it
        return path

    # -- on a thread ---------------------------------------------------------------------------

    def _set_up(self, pod: Pod, context: PodContext) -> None:
        group = pod.spec.security_context.fs_group if pod.spec.security_context else None
        for volume in pod.spec.volumes:
            path = Path(self.paths(pod)[volume.name])
            try:
                self._one(volume, path, context, group)
            except (ConfigError, VolumeTrouble, OSError, ValueError) as error:
                raise VolumeTrouble(f'volume "{volume.name}": {error}') from None

    def _one(self, volume: Volume, path: Path, context: PodContext, group: int | None) -> None:
        if volume.host_path is not None:
            _host_path(volume.host_path)
        elif volume.empty_dir is not None:
            self._empty_dir(volume, path, group)
        elif volume.secret is not None:
            files = volume_files(volume, context)
            path.mkdir(parents=True, exist_ok=True)
            self._tmpfs(path, "mode=0755")
            write_files(path, files, group)
        elif volume.config_map is not None or volume.downward_api is not None:
            files = volume_files(volume, context)
            path.mkdir(parents=True, exist_ok=True)
            write_files(path, files, group)
        else:
            raise VolumeTrouble("this node has no such kind of volume")

    def _empty_dir(self, volume: Volume, path: Path, group: int | None) -> None:
        assert volume.empty_dir is not None
        fresh = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        if volume.empty_dir.medium == "Memory":
            limit = volume.empty_dir.size_limit
            size = f",size={quantity.value(limit)}" if limit is not None else ""
            self._tmpfs(path, f"mode=0777{size}")
        if fresh:
            path.chmod(0o777)
            if group is not None:
                os.chown(path, -1, group)
                path.chmod(0o2777)

    def _tmpfs(self, path: Path, options: str) -> None:
        if os.path.ismount(path):
            return
        done = self._libc.mount(
            b"tmpfs", os.fsencode(path), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode()
        )
        if done != 0:
            raise OSError(ctypes.get_errno(), f"cannot mount tmpfs on {path}")

    def _clean(self, uid: str) -> None:
        directory = self._pods / uid
        for point in sorted(mounts_below(directory), reverse=True):
            self._libc.umount2(os.fsencode(point), _MNT_DETACH)
        left = mounts_below(directory)
        if left:
            raise OSError(f"still mounted: {', '.join(left)}")
        shutil.rmtree(directory, ignore_errors=True)


def mounts_below(directory: Path, table: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """Mount points inside ``directory``, as the kernel tells them."""
    prefix = f"{directory}/"
    points = (line.split()[4] for line in table.read_text().splitlines())
    plain = (point.encode().decode("unicode_escape") for point in points)
    return [point for point in plain if point.startswith(prefix)]


def _host_path(source: HostPathVolumeSource) -> None:
    path, wanted = Path(source.path), source.type
    if wanted == "DirectoryOrCreate" or (not wanted and not path.exists()):
        path.mkdir(parents=True, exist_ok=True)
    elif wanted == "FileOrCreate" and not path.exists():
        path.touch()
    checks = {
        "Directory": path.is_dir,
        "DirectoryOrCreate": path.is_dir,
        "File": path.is_file,
        "FileOrCreate": path.is_file,
        "Socket": path.is_socket,
        "CharDevice": path.is_char_device,
        "BlockDevice": path.is_block_device,
    }
    if wanted in checks and not checks[wanted]():
        raise VolumeTrouble(f"hostPath {path} is not a {wanted}")


def write_files(directory: Path, files: Mapping[str, File], group: int | None = None) -> bool:
    """Make ``directory`` hold exactly ``files``, all changed at one moment; says if any changed.

    As Kubernetes does: the files lie in a directory with a name of its own; ``..data`` is a
    symbolic link to it, and each file's name a link through ``..data``. One rename swaps the link.
    """
    link = directory / _DATA
    current = directory / os.readlink(link) if link.is_symlink() else None
    if current is not None and _held(current) == dict(files):
        return False
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=directory))
    fresh.chmod(0o755)
    for name, file in files.items():
        target = fresh / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.data)
        target.chmod(file.mode)
        if group is not None:
            os.chown(target, -1, group)
    (directory / _NEXT).unlink(missing_ok=True)
    (directory / _NEXT).symlink_to(fresh.name)
    (directory / _NEXT).rename(link)
    tops = {name.split("/", 1)[0] for name in files}
    for entry in list(os.scandir(directory)):
        if not entry.name.startswith("..") and entry.name not in tops:
            os.unlink(entry.path)
        elif entry.name.startswith("..") and entry.name not in (_DATA, fresh.name):
            shutil.rmtree(entry.path, ignore_errors=True)
    for top in tops:
        if not (directory / top).is_symlink():
            (directory / top).symlink_to(f"{_DATA}/{top}")
    return True


def _held(directory: Path) -> dict[str, File]:
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder) / name
            mode = path.stat().st_mode & 0o777
            found[str(path.relative_to(directory))] = File(path.read_bytes(), mode)
    return found
