"""Objects on standard output: tables whose further rows stand under the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from k8slite.api import printing, tables
from k8slite.api.kinds import SCHEME
from k8slite.api.meta import Object
from k8slite.api.printing import Format
from k8slite.api.scheme import Kind
from k8slite.cli.ctl.call import Call

Raw = dict[str, Any]


class TablePrinter:
    """The table of one kind. Later rows keep to the widths of the earlier ones."""

    def __init__(
        self,
        call: Call,
        kind: Kind[Any],
        *,
        wide: bool = False,
        headed: bool = True,
        namespaced: bool = False,
        labelled: bool = False,
        label_columns: Sequence[str] = (),
    ) -> None:
        self._call = call
        self._headed = headed
        self._namespaced = namespaced and kind.namespaced
        self._labelled = labelled
        self._label_columns = label_columns
        self._columns = tables.columns_of(kind, article=not wide, wide=wide)
        self._widths: list[int] = []

    def print(self, objects: Sequence[Object]) -> None:
        lines = [self._titles()] if self._headed else []
        self._headed = False
        now = self._call.clock.now()
        for obj in objects:
            lines += self._rows(obj, now)
        shown = [[tables.visible(cell) for cell in line] for line in lines]
        self._widths = tables.widths(shown, self._widths)
        self._call.write(tables.set_lines(shown, self._widths))

    def _titles(self) -> list[str]:
        titles = tables.titles(self._columns)
        titles += [key.rpartition("/")[2].upper() for key in self._label_columns]
        titles += ["LABELS"] if self._labelled else []
        return ["NAMESPACE", *titles] if self._namespaced else titles

    def _rows(self, obj: Object, now: float) -> list[list[str]]:
        rows = tables.rows(self._columns, obj, now)
        further = [obj.metadata.label(key, tables.NONE) for key in self._label_columns]
        further += [tables.labels_or_none(obj.metadata.labels)] if self._labelled else []
        for place, row in enumerate(rows):
            row += further if place == 0 else [""] * len(further)
        if self._namespaced:
            first = [obj.metadata.namespace, *rows[0]]
            rows = [first, *(["", *row] for row in rows[1:])]
        return rows


def show(call: Call, form: Format, kind: Kind[Any], raw: Raw, *, success: str) -> None:
    """The result of a change: its success line, or the object if ``-o`` asks for it."""
    if form.name == "":
        call.say(success)
    elif form.name == "wide":
        show_row(call, kind, raw)
    else:
        call.write(printing.printed(form, [raw], SCHEME, single=True))


def show_row(call: Call, kind: Kind[Any], raw: Raw) -> None:
    """The object's table, with its titles."""
    from k8slite.api import codec
    from k8slite.client.http import typed

    TablePrinter(call, kind).print([typed(kind, codec.encode(raw))])
