"""``-o``: documents as text, in every form but the tables (which are in ``tables``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from k8slite.api import jsonpath, tables
from k8slite.api.errors import BadRequest
from k8slite.api.scheme import Scheme

Raw = dict[str, Any]

_FORMS = ("json", "yaml", "name", "wide", "jsonpath=…", "custom-columns=…")


@dataclass(frozen=True, slots=True)
class Format:
    """``name`` is "" or "wide" for tables; ``argument`` what follows the ``=``."""

    name: str = ""
    argument: str = ""

    @property
    def table(self) -> bool:
        return self.name in ("", "wide")


def parse_format(text: str) -> Format:
    """The value of ``-o``. Raises BadRequest."""
    name, equals, argument = text.partition("=")
    if name in ("jsonpath", "custom-columns"):
        if not equals or not argument:
            raise BadRequest(f"-o {name} needs a template: -o {name}='{{.metadata.name}}'")
        if name == "jsonpath":
            jsonpath.parse(argument)
        else:
            _custom(argument)
        return Format(name, argument)
    if equals or name not in ("", "json", "yaml", "name", "wide"):
        raise BadRequest(f"-o {text!r} is no output format (one of {', '.join(_FORMS)})")
    return Format(name)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """YAML as kubectl writes it: text of several lines as a block, no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, value: str) -> Any:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(document: Any) -> str:
    text: str = yaml.dump(
        document, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, width=1 << 16
    )
    return text


def as_json(document: Any) -> str:
    return json.dumps(document, indent=4, sort_keys=True, ensure_ascii=False) + "\n"


def as_name(document: Raw, scheme: Scheme) -> str:
    """``pod/nginx``: what every command takes back."""
    kind = scheme.named(document.get("kind", ""))
    singular = kind.singular if kind else str(document.get("kind", "")).lower()
    return f"{singular}/{document.get('metadata', {}).get('name', '')}\n"


def _custom(text: str) -> list[tuple[str, jsonpath.Path]]:
    columns: list[tuple[str, jsonpath.Path]] = []
    for part in text.split(","):
        title, colon, path = part.partition(":")
        if not (colon and title and path):
            raise BadRequest(f"custom column {part!r}: write TITLE:.path.to.field")
        columns.append((title, jsonpath.parse_path(path)))
    return columns


def custom_columns(text: str, documents: Sequence[Raw], *, headed: bool = True) -> str:
    """``NAME:.metadata.name,IMAGE:.spec.containers[*].image`` as a table."""
    columns = _custom(text)
    lines = [[title for title, _ in columns]] if headed else []
    for document in documents:
        cells = (
            [jsonpath.as_text(v) for v in path.values(document, document)] for _, path in columns
        )
        lines.append([",".join(values) or tables.NONE for values in cells])
    return tables.layout(lines)


def as_list(documents: Sequence[Raw], version: str = "v1") -> Raw:
    """Several documents as one."""
    return {"kind": "List", "apiVersion": version, "metadata": {}, "items": list(documents)}


def printed(
    form: Format, documents: Sequence[Raw], scheme: Scheme, *, single: bool, headed: bool = True
) -> str:
    """Documents in any form but a table. ``single``: one was asked for, so it is no list."""
    if form.name == "name":
        return "".join(as_name(document, scheme) for document in documents)
    if form.name == "custom-columns":
        return custom_columns(form.argument, documents, headed=headed)
    whole = documents[0] if single and documents else as_list(documents)
    if form.name == "jsonpath":
        return jsonpath.render(jsonpath.parse(form.argument), whole)
    return as_json(whole) if form.name == "json" else as_yaml(whole)


def sort_documents(documents: Sequence[Raw], path: str) -> list[Raw]:
    """By the value of a field; those without it last. Raises BadRequest."""
    parsed = jsonpath.parse_path(path)

    def rank(document: Raw) -> tuple[bool, bool, Any]:
        values = parsed.values(document, document)
        value = values[0] if values else None
        number = isinstance(value, int | float)
        return value is None, not number, value if number else jsonpath.as_text(value)

    return sorted(documents, key=rank)
