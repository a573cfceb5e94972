"""Mixed traffic while endpoints come and go every second, for a short while.

``python -m bench soak`` does the same for ten minutes, and looks at memory as well.
"""

from __future__ import annotations

import pytest
from bench.floods import site
from bench.soak import soak
from tests.proxy.soak_history import Failure, Life, explained

SECONDS = 10.0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["userspace", "nft"])
def test_no_error_but_for_an_endpoints_own_death_and_nothing_left_over(mode: str) -> None:
    with site(mode) as made:
        soaked = made.net.node.do(soak(made, SECONDS), timeout=SECONDS + 90)
    assert soaked.done.keys() == {"bulk", "kept", "single", "half-closed", "udp"}
    assert sum(life.died < float("inf") for life in soaked.lives.values()) > 5
    assert soaked.unexplained == []
    assert soaked.complaints == []
    assert soaked.clean, (soaked.before, soaked.after, soaked.active)


def test_the_history_explains_what_a_death_can_do_and_nothing_else() -> None:
    lives = {
        "drained": Life(listed=0.0, unlisted=10.0, died=11.0, gone=11.1),
        "crashed": Life(listed=0.0, unlisted=21.0, died=20.0, gone=20.0),
        "well": Life(listed=0.0),
    }

    def cut(kind: str, start: float, end: float, server: str, error: str = "reset") -> bool:
        return explained(Failure(kind, start, end, server, error), lives)

    assert cut("bulk", 9.0, 11.1, "drained")
    assert not cut("bulk", 9.0, 10.0, "drained")
    assert not cut("bulk", 19.0, 21.0, "well")
    assert cut("single", 19.9, 20.0, "")
    assert not cut("single", 15.0, 16.0, "")
    assert not cut("bulk", 19.0, 21.0, "crashed", "Mismatch()")
    assert cut("udp", 20.5, 21.5, "")
    assert not cut("udp", 22.0, 23.0, "crashed")
    assert not cut("udp", 10.5, 11.5, "drained")


def test_the_kernel_tries_no_other_endpoint_and_keeps_a_flow_for_a_while() -> None:
    lives = {"crashed": Life(listed=0.0, unlisted=21.0, died=20.0, gone=20.0)}

    def cut(kind: str, start: float, end: float, server: str = "") -> bool:
        failure = Failure(kind, start, end, server, "refused")
        assert not explained(failure, lives)
        return explained(failure, lives, kernel=True)

    assert cut("single", 20.5, 20.51)
    assert not cut("single", 21.5, 21.51)
    assert not cut("single", 20.5, 20.51, "crashed")  # it was dead: who spoke?
    assert cut("udp", 21.8, 22.8)
    assert not cut("udp", 22.5, 23.5)
