"""Quantities of resources: ``250m``, ``64Mi``, ``1e3``. Exact arithmetic on fractions.

Grammar, limits and canonical form are those of Kubernetes' ``apimachinery/pkg/api/resource``:

- a number and one suffix, decimal (n u m k M G T P E), binary (Ki Mi Gi Ti Pi Ei) or exponent (e3);
- nothing finer than a billionth (rounded away from zero), nothing beyond 2^63 - 1 (capped);
- the canonical text has no fraction and the greatest suffix that allows it, in the family that
  the user chose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from fractions import Fraction
from functools import lru_cache

#: What a document may hold where a quantity is wanted.
Text = str | int | float

_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_BINARY_SUFFIX = {0: "", **{power: suffix for suffix, power in _BINARY.items()}}

_SHAPE = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([A-Za-z]*)([+-]?[0-9]*)")
_LARGEST = Fraction(2**63 - 1)
_FINEST = 10**9


class Form(Enum):
    """The family of suffixes that a quantity was written in."""

    DECIMAL = "decimal"
    BINARY = "binary"
    EXPONENT = "exponent"


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def _within_limits(value: Fraction) -> Fraction:
    if value.denominator > 1:
        billionths = _ceil(abs(value) * _FINEST)
        value = Fraction(billionths if value > 0 else -billionths, _FINEST)
    return max(-_LARGEST, min(_LARGEST, value))


@lru_cache(maxsize=4096)
def _read(text: str) -> tuple[Fraction, Form]:
    match = _SHAPE.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        raise ValueError(f"not a quantity: {text!r} (examples: 250m, 1.5, 64Mi, 2Gi)")
    sign, whole, part, suffix, exponent = match.groups("")
    number = Fraction(int(whole + part), 10 ** len(part))
    if sign == "-":
        number = -number
    if exponent and suffix in ("e", "E") and exponent.lstrip("+-"):
        # No 64-bit value lies outside these exponents; an absurd one must not cost memory.
        power = max(-400, min(400, int(exponent)))
        return _within_limits(number * Fraction(10) ** power), Form.EXPONENT
    if exponent or (suffix not in _DECIMAL and suffix not in _BINARY):
        known = ", ".join([*filter(None, _DECIMAL), *_BINARY])
        raise ValueError(f"not a quantity: {text!r} has an unknown suffix (known: {known})")
    if suffix in _BINARY:
        number = _within_limits(number * 1024 ** _BINARY[suffix])
        return number, Form.DECIMAL if 0 < number < 1 else Form.BINARY
    return _within_limits(number * Fraction(10) ** _DECIMAL[suffix]), Form.DECIMAL


def _written(quantity: Text) -> str:
    return quantity.strip() if isinstance(quantity, str) else str(quantity)


def parse(quantity: Text) -> Fraction:
    """The exact value. Raises ValueError when the text is no quantity."""
    return _read(_written(quantity))[0]


def form_of(quantity: Text) -> Form:
    """The family of suffixes that ``quantity`` is written in. Raises ValueError."""
    return _read(_written(quantity))[1]


def value(quantity: Text) -> int:
    """Whole units, rounded up: ``64Mi`` → 67108864, ``100m`` → 1. Raises ValueError."""
    return _ceil(parse(quantity))


def milli(quantity: Text) -> int:
    """Thousandths, rounded up: ``250m`` → 250, ``1`` → 1000. Raises ValueError."""
    return _ceil(parse(quantity) * 1000)


def _thousands(number: Fraction) -> tuple[int, int]:
    """``number`` as integer × 10^exponent, the exponent the greatest multiple of three."""
    exponent = 0
    while number.denominator > 1:
        number, exponent = number * 1000, exponent - 3
    whole = number.numerator
    while whole and whole % 1000 == 0:
        whole, exponent = whole // 1000, exponent + 3
    return whole, exponent


def spell(number: Fraction | int, form: Form = Form.DECIMAL) -> str:
    """The canonical text of ``number`` in the family ``form``."""
    number = _within_limits(Fraction(number))
    if form is Form.BINARY and number.denominator == 1 and abs(number) >= 1024:
        whole, power = number.numerator, 0
        while whole % 1024 == 0:
            whole, power = whole // 1024, power + 1
        return f"{whole}{_BINARY_SUFFIX[power]}"
    whole, exponent = _thousands(number)
    if form is Form.EXPONENT:
        return f"{whole}e{exponent}" if exponent else str(whole)
    return f"{whole}{_DECIMAL_SUFFIX[exponent]}"


def canonical(quantity: Text) -> str:
    """As Kubernetes writes it: ``0.5`` → ``500m``, ``2048Ki`` → ``2Mi``. Raises ValueError."""
    return _canonical(_written(quantity))


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    return spell(*_read(text))


def add(left: Text, right: Text) -> str:
    """The canonical sum, in the family of ``left`` (of ``right`` when ``left`` is zero)."""
    first, second = parse(left), parse(right)
    return spell(first + second, form_of(left if first else right))


def subtract(left: Text, right: Text) -> str:
    """The canonical difference, in the family of ``left`` (of ``right`` when it is zero)."""
    first, second = parse(left), parse(right)
    return spell(first - second, form_of(left if first else right))


def total(quantities: Iterable[Text]) -> str:
    """The canonical sum of all; ``0`` of none."""
    result = "0"
    for quantity in quantities:
        result = add(result, quantity)
    return result
