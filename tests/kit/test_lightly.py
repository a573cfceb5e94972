"""What an import keeps away comes when it is asked for."""

from __future__ import annotations

import subprocess
import sys


def run(text: str) -> str:
    command = [sys.executable, "-c", text]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_module_is_missing_meanwhile_and_there_afterwards() -> None:
    said = run(
        "import sys\n"
        "from k8slite.kit.lightly import without\n"
        "with without('colorsys'):\n"
        "    try:\n"
        "        import colorsys\n"
        "    except ImportError:\n"
        "        print('missing')\n"
        "import colorsys\n"
        "print(colorsys.__name__)\n"
    )
    assert said.split() == ["missing", "colorsys"]


def test_a_part_comes_without_its_package_and_the_package_afterwards() -> None:
    said = run(
        "import sys\n"
        "from k8slite.kit.lightly import only_parts\n"
        "with only_parts('xml'):\n"
        "    import xml.sax\n"
        "print('xml' in sys.modules, 'xml.sax' in sys.modules)\n"
        "import xml.dom\n"
        "print(xml.dom.__name__, xml.__doc__ is not None)\n"
    )
    assert said.splitlines() == ["False True", "xml.dom True"]


def test_the_agent_carries_no_terminal_painter() -> None:
    said = run(
        "import sys\n"
        "from k8slite.cli.main import build\n"
        "build('agent')\n"
        "import k8slite.agent.process\n"
        "print([name for name in ('rich', 'pygments') if name in sys.modules])\n"
    )
    assert said == "[]"
