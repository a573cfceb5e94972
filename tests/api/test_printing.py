"""Documents as text: what ``-o`` promises."""

from __future__ import annotations

import json

import pytest
import yaml

from k8slite.api import printing
from k8slite.api.errors import BadRequest
from k8slite.api.kinds import SCHEME

POD = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": "a"},
    "data": {"script": "first\nsecond\n", "number": "1", "shared": ["x"]},
}


def shown(form: str, *documents: dict[str, object], single: bool = True) -> str:
    return printing.printed(printing.parse_format(form), documents, SCHEME, single=single)


def test_yaml_and_json_say_the_same() -> None:
    assert yaml.safe_load(shown("yaml", POD)) == POD
    assert json.loads(shown("json", POD)) == POD
    assert "script: |\n" in shown("yaml", POD)
    assert "number: '1'" in shown("yaml", POD)


def test_names_and_templates() -> None:
    assert shown("name", POD) == "pod/a\n"
    assert shown("jsonpath={.metadata.name}", POD) == "a"
    assert shown("custom-columns=N:.metadata.name,X:.y", POD) == "N         X\na         <none>\n"


def test_several_documents_are_a_list() -> None:
    listed = json.loads(shown("json", POD, POD, single=False))
    assert (listed["kind"], len(listed["items"])) == ("List", 2)
    assert shown("jsonpath={.items[*].kind}", POD, POD, single=False) == "Pod Pod"


@pytest.mark.parametrize(
    "form", ["xml", "json=x", "jsonpath", "jsonpath=", "jsonpath={", "custom-columns=A",
             "custom-columns=A:", "custom-columns=:.a"],
)  # fmt: skip
def test_a_form_that_there_is_not_is_refused_before_anything_is_asked(form: str) -> None:
    with pytest.raises(BadRequest):
        printing.parse_format(form)


def test_sorting_puts_numbers_by_size_and_what_lacks_the_field_last() -> None:
    documents = [{"n": 10}, {"m": 1}, {"n": 9}, {"n": "a"}]
    assert printing.sort_documents(documents, ".n") == [
        {"n": 9}, {"n": 10}, {"n": "a"}, {"m": 1},
    ]  # fmt: skip
