"""The reader of ``config-default.sh``: shell assignments in, values out. Pure; nothing is executed.

What is understood is what such a file needs::

    # comments, blank lines and line continuations
    export NAME=value            several on a line, with or without export, ``;`` between them
    NAME='as it stands'  NAME="with $X, ${X} and ${X:-default}"  NAME=${X:-"default"}
    NAME=("an" "array" $OF_WORDS)

Variables are those of earlier lines, then those of the environment that is handed in. Everything
else of the shell (commands, substitutions, ``if``, functions, globs …) is refused with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Value = str | tuple[str, ...]

#: A file with more characters is no configuration.
LONGEST_FILE = 1 << 16
#: So many characters may come out of all its expansions together.
MOST_EXPANDED = 1 << 18
#: So many faults are told; the rest of such a file says nothing new.
MOST_FAULTS = 12

UNDERSTOOD = 'NAME=value, NAME=("an" "array"), export, quotes, comments, $X, ${X} and ${X:-default}'

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TARGET = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_WORD = re.compile(r"[^\s;&|<>()`$\"'\\#]+")
_BLANK = " \t"
_SEPARATORS = frozenset(" \t\n;&|<>()")
_GLOBS = frozenset("*?[{~")
#: Characters that a backslash makes ordinary inside double quotes.
_ESCAPED = frozenset('$`"\\')


class ConfigError(ValueError):
    """The file cannot be read; ``problems`` says all of why, each with its line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Variable:
    """A value and the line of its assignment, from 1."""

    value: Value
    line: int

    @property
    def words(self) -> tuple[str, ...]:
        """The words of it: an array's items, or what blanks separate."""
        return self.value if isinstance(self.value, tuple) else tuple(self.value.split())

    @property
    def text(self) -> str:
        return " ".join(self.value) if isinstance(self.value, tuple) else self.value


def parse(text: str, environment: Mapping[str, str] | None = None) -> dict[str, Variable]:
    """The variables that the text assigns, by name; the last assignment counts.

    Raises ConfigError with every line that is not understood.
    """
    if len(text) > LONGEST_FILE:
        raise ConfigError([f"the file is longer than {LONGEST_FILE >> 10} KiB: the right one?"])
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError([f"line {line}: a zero byte: this is no text file"])
    reader = _Reader(text.removeprefix("\ufeff").replace("\r\n", "\n"), environment or {})
    reader.read()
    if reader.problems:
        raise ConfigError(reader.problems)
    return reader.found


class _Refused(Exception):
    """This statement is not understood."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


@dataclass(slots=True)
class _Reader:
    """A cursor over the text; every method leaves it behind what it has read."""

    text: str
    environment: Mapping[str, str]
    found: dict[str, Variable] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    at: int = 0
    expanded: int = 0

    def read(self) -> None:
        while self.at < len(self.text):
            try:
                self._statement()
            except _Refused as refused:
                if len(self.problems) < MOST_FAULTS:
                    self.problems.append(f"line {refused.line}: {refused}")
                self._skip_line()

    # -- the cursor ---------------------------------------------------------------------------

    @property
    def _here(self) -> str:
        """The character under the cursor; "" at the end."""
        return self.text[self.at : self.at + 1]

    @property
    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def _skip_line(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end + 1

    def _skip_blanks(self) -> None:
        """Over blanks and continued line ends."""
        while self._here:
            if self._here in _BLANK:
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            else:
                return

    def _refuse(self, what: str, line: int = 0) -> _Refused:
        return _Refused(line or self._line, f"{what} is not understood; what is: {UNDERSTOOD}")

    # -- statements ---------------------------------------------------------------------------

    def _statement(self) -> None:
        """Assignments up to the end of the line or a semicolon."""
        self._skip_blanks()
        exported = False
        assigned: dict[str, Variable] = {}
        while self._here and self._here not in "\n;":
            if self._here == "#":
                self._skip_line()
                self.at -= self.text[self.at - 1 : self.at] == "\n"
                break
            target = self._take(_TARGET)
            if target:
                line = self._line
                assigned[target[1]] = variable = Variable(self._value(), line)
                # Within one line the earlier assignments count already, as in the shell.
                self.found[target[1]] = variable
            elif self._exporting():
                exported = True
            elif exported and self._take(_NAME) and self._at_word_end():
                pass  # `export NAME` of an earlier line
            else:
                raise self._refuse(self._described())
            self._skip_blanks()
        self.at += 1

    def _exporting(self) -> bool:
        """Over the word ``export``, when that is the next one."""
        if not re.compile(r"export(?=[ \t\n;#\\]|$)").match(self.text, self.at):
            return False
        self.at += len("export")
        return True

    def _at_word_end(self) -> bool:
        return not self._here or self._here in " \t\n;"

    def _described(self) -> str:
        """What stands here, in words that its author will know it by."""
        end = self.text.find("\n", self.at)
        rest = self.text[self.at : len(self.text) if end < 0 else end]
        if re.match(r"[A-Za-z_][A-Za-z0-9_]*(\[[^]]*\])?\+=", rest):
            return f"appending ({rest[:40]!r})"
        if re.match(r"[A-Za-z_][A-Za-z0-9_]*\[", rest):
            return f"an assignment to one item ({rest[:40]!r})"
        if re.match(r"[A-Za-z_][A-Za-z0-9_]*\s*\(\)|function\s", rest):
            return f"a function ({rest[:40]!r})"
        word = _WORD.match(rest)
        if word and word[0] in _KEYWORDS:
            return f"`{word[0]}`"
        if re.match(r"[A-Za-z_][A-Za-z0-9_]*\s+=", rest):
            return f"a blank before `=` ({rest[:40]!r})"
        return f"{rest[:40]!r} (a command?)"

    # -- values -------------------------------------------------------------------------------

    def _value(self) -> Value:
        if self._here == "(":
            self.at += 1
            return tuple(self._array())
        if self._here == "~":
            raise self._refuse("a `~` for a home folder")
        return "".join(part for part, _ in self._parts())

    def _array(self) -> Iterator[str]:
        """The items between parentheses; what was expanded without quotes falls into words."""
        start = self._line
        while True:
            self._skip_blanks()
            if not self._here:
                raise _Refused(start, "the array's closing parenthesis is missing")
            if self._here == ")":
                self.at += 1
                if not self._at_word_end() and not self.text.startswith("\\\n", self.at):
                    raise self._refuse(f"{self._here!r} behind an array")
                return
            if self._here == "\n":
                self.at += 1
            elif self._here == "#":
                self._skip_line()
            elif self._here in _SEPARATORS:
                raise self._refuse(f"{self._here!r} in an array")
            elif self._take(re.compile(r"\[[^]\s]*\]=")):
                raise self._refuse("an array item with an index")
            else:
                yield from self._items()

    def _items(self) -> Iterator[str]:
        """One word of an array as the shell would split it."""
        words: list[str] = []
        grown: str | None = None  # the word that is being put together
        for part, split in self._parts(globs=True):
            if not split:
                grown = (grown or "") + part
                continue
            pieces = part.split()
            if pieces and part[0].isspace() and grown is not None:
                words.append(grown)
                grown = None
            for number, piece in enumerate(pieces):
                if number:
                    words.append(grown or "")
                    grown = ""
                grown = (grown or "") + piece
            if pieces and part[-1].isspace():
                words.append(grown or "")
                grown = None
        yield from words
        if grown is not None:
            yield grown

    def _parts(self, *, globs: bool = False) -> Iterator[tuple[str, bool]]:
        """The pieces of one word: text, and whether it was expanded outside of quotes."""
        while self._here and self._here not in _SEPARATORS:
            here = self._here
            if here == "'":
                yield self._single(), False
            elif here == '"':
                yield "".join(self._double()), False
            elif here == "$":
                yield self._expansion(quoted=False), True
            elif here == "`":
                raise self._refuse("a command substitution (`…`)")
            elif here == "\\":
                if self.text.startswith("\\\n", self.at):
                    self.at += 2
                    continue
                yield self.text[self.at + 1 : self.at + 2], False
                self.at += 2
            elif globs and here in _GLOBS:
                raise self._refuse(f"the pattern character {here!r} outside of quotes")
            else:
                yield here, False
                self.at += 1
        if self._here in ("&", "|", "<", ">", "(", ")") and not (globs and self._here == ")"):
            raise self._refuse(f"{self._here!r} outside of quotes")

    def _single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise _Refused(self._line, "the closing ' is missing")
        inner = self.text[self.at + 1 : end]
        self.at = end + 1
        return inner

    def _double(self) -> Iterator[str]:
        start = self._line
        self.at += 1
        while self._here != '"':
            if not self._here:
                raise _Refused(start, 'the closing " is missing')
            yield self._quoted_piece()
        self.at += 1

    def _quoted_piece(self) -> str:
        """A piece of what double quotes hold."""
        here, following = self._here, self.text[self.at + 1 : self.at + 2]
        if here == "$":
            return self._expansion(quoted=True)
        if here == "`":
            raise self._refuse("a command substitution (`…`)")
        if here == "\\" and following in (*_ESCAPED, "\n") and following:
            self.at += 2
            return "" if following == "\n" else following
        self.at += 1
        return here

    def _expansion(self, *, quoted: bool) -> str:
        """``$X``, ``${X}``, ``${X:-default}``, ``${X-default}``; a lone ``$`` stands for itself."""
        grown = self._expand(quoted)
        self.expanded += len(grown)
        if self.expanded > MOST_EXPANDED:
            raise _Refused(self._line, f"the file's ${{…}} grow beyond {MOST_EXPANDED} characters")
        return grown

    def _expand(self, quoted: bool) -> str:
        self.at += 1
        if self._here == "(" or (self._here in ("'", '"') and not quoted and self._here):
            what = {"(": "a command substitution ($(…))", "'": "a $'…' string"}
            raise self._refuse(what.get(self._here, 'a $"…" string'))
        if name := self._take(_NAME):
            return self._lookup(name[0]) or ""
        if self._here != "{":
            if self._here and self._here in "0123456789@*#?$!-":
                raise self._refuse(f"the shell's own variable ${self._here}")
            return "$"
        self.at += 1
        name = self._take(_NAME)
        if not name:
            raise self._refuse("this ${…}")
        return self._braced(name[0], quoted)

    def _braced(self, name: str, quoted: bool) -> str:
        """The rest of ``${NAME…}``."""
        known = self._lookup(name)
        if self._here == "}":
            self.at += 1
            return known or ""
        empty_counts = self.text.startswith(":-", self.at)
        if not empty_counts and self._here != "-":
            raise self._refuse(f"this form of ${{{name}…}}")
        self.at += 2 if empty_counts else 1
        default = self._default(quoted)
        if known is None or (empty_counts and not known):
            return default
        return known

    def _default(self, quoted: bool) -> str:
        """What stands between ``:-`` and ``}``."""
        start, parts = self._line, list[str]()
        while self._here != "}":
            if not self._here:
                raise _Refused(start, "the closing } is missing")
            if self._here == '"':
                parts += self._double()
            elif self._here == "'" and not quoted:
                parts.append(self._single())
            else:
                parts.append(self._quoted_piece())
        self.at += 1
        return "".join(parts)

    def _lookup(self, name: str) -> str | None:
        """An array's first item stands for it, as in the shell."""
        if name in self.found:
            value = self.found[name].value
            return value if isinstance(value, str) else next(iter(value), "")
        return self.environment.get(name)


_KEYWORDS = frozenset(
    "if then else elif fi for while until do done case esac function select source . set unset "
    "declare local readonly eval exec trap return exit alias shopt [ [[ test echo printf cd".split()
)
