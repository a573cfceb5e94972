"""What of the host was changed besides what bears our name: on disk, so that it can be undone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(slots=True)
class _Record:
    ip_forward: str = ""  # its value before we changed it; "" when we did not
    routes: bool = False  # links or routes of ours may be there


class Traces:
    """The record in ``data_dir``; small, and written only when it changes."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "overlay.json"
        try:
            self._record = _Record(**json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError):
            self._record = _Record()

    @property
    def routes(self) -> bool:
        return self._record.routes

    def note_routes(self, there: bool) -> None:
        if there != self._record.routes:
            self._record.routes = there
            self._save()

    def forward(self) -> bool:
        """Let the kernel forward between interfaces; whether that was a change."""
        value = _FORWARD.read_text().strip()
        if value == "1":
            return False
        if not self._record.ip_forward:
            self._record.ip_forward = value
            self._save()
        _FORWARD.write_text("1")
        return True

    def put_back(self) -> bool:
        """Make forwarding what it was; whether that was a change."""
        value = self._record.ip_forward
        self._record.ip_forward = ""
        if not value or _FORWARD.read_text().strip() == value:
            return False
        _FORWARD.write_text(value)
        return True

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self._record)))
        part.replace(self._path)
