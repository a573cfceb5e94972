"""The client room's tests use a real registry as the server."""

from __future__ import annotations

import sys
from pathlib import Path

# The world of the API server's tests is theirs; it is borrowed here, not copied.
sys.path.insert(0, str(Path(__file__).parent.parent / "apiserver"))
