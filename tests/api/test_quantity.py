"""Quantities: exact, canonical as Kubernetes writes them, and closed under reading back."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.api import quantity


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0", "0"), ("0n", "0"), ("0Mi", "0"), ("1000", "1k"), ("1200", "1200"), ("0.5", "500m"),
        ("1500m", "1500m"), ("2000m", "2"), ("1024", "1024"), ("1024Ki", "1Mi"),
        ("2048Ki", "2Mi"), ("1000Ki", "1000Ki"), ("0.5Mi", "512Ki"), ("0.5Gi", "512Mi"),
        ("1023Ki", "1023Ki"), ("1Ki", "1Ki"), ("0.5Ki", "512"), ("1e3", "1e3"), ("1E3", "1e3"),
        ("12e5", "1200e3"), ("1E", "1E"), (".5", "500m"), ("1.", "1"), ("+1", "1"), ("-1", "-1"),
        ("100000000", "100M"), ("1.5Gi", "1536Mi"), ("0.1n", "1n"), ("-0.1n", "-1n"),
        ("0.0000000001Ki", "103n"), ("9223372036854775808", "9223372036854775807"),
        ("1e400000000", "9223372036854775807e0"), (0.5, "500m"),
        (4, "4"), ("10E", "9223372036854775807"),
    ],
)  # fmt: skip
def test_canonical_form(text: str, canonical: str) -> None:
    assert quantity.canonical(text) == canonical.removesuffix("e0")


@pytest.mark.parametrize(
    "text", ["", " ", "1 Mi", "Mi", "1K", "1mi", "1KiB", "1.2.3", "--1", "e3", "1e", "abc", "1m3",
     "."],
)  # fmt: skip
def test_what_is_no_quantity_says_so(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity.parse(text)


def test_whole_units_and_thousandths_round_up() -> None:
    assert quantity.value("64Mi") == 67108864
    assert quantity.value("100m") == 1
    assert quantity.milli("250m") == 250
    assert quantity.milli("1") == 1000
    assert quantity.milli("1u") == 1
    assert quantity.milli("-1500u") == -1


def test_sums_keep_the_family_of_the_first_that_is_not_zero() -> None:
    assert quantity.add("100m", "0.2") == "300m"
    assert quantity.add("0", "64Mi") == "64Mi"
    assert quantity.subtract("1Gi", "512Mi") == "512Mi"
    assert quantity.subtract("0", "512Mi") == "-512Mi"
    assert quantity.total([]) == "0"
    assert quantity.total(["64Mi", "64Mi", "1Gi"]) == "1152Mi"


suffixes = st.sampled_from(["n", "u", "m", "", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "e-2"])


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=4), suffixes)
def test_the_canonical_text_has_the_same_value_and_is_its_own_canonical_text(
    number: object, suffix: str
) -> None:
    text = f"{number}{suffix}"
    canonical = quantity.canonical(text)
    assert quantity.parse(canonical) == quantity.parse(text)
    assert quantity.canonical(canonical) == canonical
    assert "." not in canonical


@given(st.integers(-(10**15), 10**15), st.integers(-(10**15), 10**15))
def test_addition_is_exact(left: int, right: int) -> None:
    assert quantity.parse(quantity.add(f"{left}m", f"{right}m")) == Fraction(left + right, 1000)
