"""JSONPath templates: what kubectl's documentation promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.api.errors import BadRequest
from k8slite.api.jsonpath import parse, parse_path, render

PODS = {
    "kind": "List",
    "items": [
        {
            "metadata": {"name": "a", "labels": {"k8s.io/app": "web", "n": "1"}},
            "spec": {"ports": [{"port": 80}, {"port": 443}], "on": True},
            "status": {"phase": "Running", "count": 2},
        },
        {
            "metadata": {"name": "b", "labels": {}},
            "spec": {"ports": [{"port": 53}], "on": False},
            "status": {"phase": "Pending", "count": 7},
        },
        {"metadata": {"name": "c"}},
    ],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.kind}", "List"),
        ("kind is {.kind}!", "kind is List!"),
        (".kind", "List"),
        ("{$.kind}", "List"),
        ("{.items[0].metadata.name}", "a"),
        ("{.items[-1].metadata.name}", "c"),
        ("{.items[9].metadata.name}", ""),
        ("{.items[*].metadata.name}", "a b c"),
        ("{.items[0:2].metadata.name}", "a b"),
        ("{.items[:].metadata.name}", "a b c"),
        ("{.items[::2].metadata.name}", "a c"),
        ("{.items[0,2].metadata.name}", "a c"),
        ("{.items[0]['metadata','status']['name','phase']}", "a Running"),
        ("{.items[0].metadata.labels.k8s\\.io/app}", "web"),
        ("{.items[0].metadata.labels['k8s.io/app']}", "web"),
        ("{.items[*].absent}", ""),
        ("{.items[0].spec.ports}", '[{"port":80},{"port":443}]'),
        ("{.items[0].spec.on}", "true"),
        ("{.items[0].status.count}", "2"),
        ("{..port}", "80 443 53"),
        ("{.items[0].metadata.labels.*}", "web 1"),
        ('{range .items[*]}{.metadata.name}{"\\t"}{.status.phase}{"\\n"}{end}',
         "a\tRunning\nb\tPending\nc\t\n"),
        ("{range .items[*]}{.metadata.name}:{range .spec.ports[*]}{.port},{end};{end}",
         "a:80,443,;b:53,;c:;"),
        ("{range .items[*]}{$.kind}{end}", "ListListList"),
        ("{range .items[*]}[{@.metadata.name}]{end}", "[a][b][c]"),
        ('{.items[?(@.status.phase=="Running")].metadata.name}', "a"),
        ("{.items[?(@.status.phase!='Running')].metadata.name}", "b"),
        ("{.items[?(@.status.count > 2)].metadata.name}", "b"),
        ("{.items[?(@.status.count<=2)].metadata.name}", "a"),
        ("{.items[?(@.status)].metadata.name}", "a b"),
        ("{.items[?(@.spec.on==true)].metadata.name}", "a"),
        ("{.items[?(@.status.phase<3)].metadata.name}", ""),
        ("{'it''s'}", "its"),
        ("{.items[0].metadata.name} {.items[1].metadata.name}", "a b"),
        ("", ""),
        ("plain", "plain"),
    ],
)  # fmt: skip
def test_templates(template: str, text: str) -> None:
    assert render(parse(template), PODS) == text


@pytest.mark.parametrize(
    "template",
    ["{", "{.a", "{.a[}", "{.a[0}", "{.a[x]}", "{range .a}", "{end}", "{.a[?(@.x=]}", "{'x}",
     "{.a[0:1:0]}", "{.a[?(@.b==1}", "{!}"],
)  # fmt: skip
def test_mistakes_are_placed(template: str) -> None:
    with pytest.raises(BadRequest, match="at character"):
        parse(template)


@pytest.mark.parametrize("path", [".metadata.name", "metadata.name", "{.metadata.name}"])
def test_a_path_of_a_column(path: str) -> None:
    assert parse_path(path).values({"metadata": {"name": "a"}}, None) == ["a"]


def test_a_path_that_does_not_end_is_refused() -> None:
    with pytest.raises(BadRequest, match="should end"):
        parse_path(".a b")


@given(st.text(alphabet="{}.[]*'\"?()@$=ab1:,\\ range end", max_size=20))
def test_any_text_is_a_template_or_a_bad_request(template: str) -> None:
    try:
        nodes = parse(template)
    except BadRequest:
        return
    render(nodes, PODS)
