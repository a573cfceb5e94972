"""Ages in words: as the article's kubectl said them, and as today's does."""

from __future__ import annotations

from k8slite.kit.clock import parse_rfc3339

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


def since(stamp: str | None, now: float) -> float | None:
    """Seconds from ``stamp`` (RFC 3339) to ``now`` (Unix seconds); None without a legible stamp."""
    try:
        return now - parse_rfc3339(stamp) if stamp else None
    except ValueError:
        return None


def in_words(seconds: float) -> str:
    """``9 seconds``, ``About a minute``, ``3 hours`` (docker/pkg/units of 2015)."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < _MINUTE:
        return f"{whole} seconds"
    if whole < 2 * _MINUTE:
        return "About a minute"
    if whole < _HOUR:
        return f"{whole // _MINUTE} minutes"
    if whole < 2 * _HOUR:
        return "About an hour"
    if whole < 2 * _DAY:
        return f"{whole // _HOUR} hours"
    if whole < 14 * _DAY:
        return f"{whole // _DAY} days"
    if whole < 90 * _DAY:
        return f"{whole // (7 * _DAY)} weeks"
    if whole < 2 * _YEAR:
        return f"{whole // (30 * _DAY)} months"
    return f"{whole // _YEAR} years"


def _two(big: int, unit: str, small: int, small_unit: str) -> str:
    return f"{big}{unit}{small}{small_unit}" if small else f"{big}{unit}"


def short(seconds: float) -> str:
    """``9s``, ``3m12s``, ``5h``, ``2d4h`` (apimachinery/pkg/util/duration)."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 2 * _MINUTE:
        return f"{max(whole, 0)}s"
    if whole < 10 * _MINUTE:
        return _two(whole // _MINUTE, "m", whole % _MINUTE, "s")
    if whole < 3 * _HOUR:
        return f"{whole // _MINUTE}m"
    if whole < 8 * _HOUR:
        return _two(whole // _HOUR, "h", whole // _MINUTE % 60, "m")
    if whole < 2 * _DAY:
        return f"{whole // _HOUR}h"
    if whole < 8 * _DAY:
        return _two(whole // _DAY, "d", whole // _HOUR % 24, "h")
    if whole < 2 * _YEAR:
        return f"{whole // _DAY}d"
    if whole < 8 * _YEAR:
        return _two(whole // _YEAR, "y", whole // _DAY % 365, "d")
    return f"{whole // _YEAR}y"
