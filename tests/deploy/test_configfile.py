"""config-default.sh is read as the shell would, and nothing of it is ever run."""

from __future__ import annotations

import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8slite.deploy.configfile import ConfigError, Variable, parse

ARTICLE = """\
## Contains configuration values for the Ubuntu cluster
# В данном пункте необходимо указать все ноды будущего кластера, MASTER-нода указывается первой
export nodes="core@192.168.0.10 core@192.168.0.11 core@192.168.0.12"
# Определяем роли нод : a(master) или i(minion) или ai(master и minion)
export roles=("ai" "i" "i")
export NUM_MINIONS=${NUM_MINIONS:-3}
export PORTAL_NET=192.168.3.0/24
export FLANNEL_NET=172.16.0.0/16
ADMISSION_CONTROL=NamespaceLifecycle,NamespaceAutoProvision,LimitRanger,ResourceQuota
# например установка --insecure-registry для локальных репозиториев.
DOCKER_OPTS=""
"""

#: From cluster/ubuntu/config-default.sh of the releases around v0.17.
RELEASE = """\
#!/bin/bash

## Contains configuration values for the Ubuntu cluster
export nodes="vcap@10.10.103.250 vcap@10.10.103.162 vcap@10.10.103.223"
export roles=("ai" "i" "i")
export NUM_MINIONS=${NUM_MINIONS:-3}
export SERVICE_CLUSTER_IP_RANGE=192.168.3.0/24  # formerly PORTAL_NET
export FLANNEL_NET=172.16.0.0/16
ENABLE_NODE_LOGGING=false
LOGGING_DESTINATION=${LOGGING_DESTINATION:-elasticsearch}
ENABLE_CLUSTER_MONITORING="${KUBE_ENABLE_CLUSTER_MONITORING:-true}"
DOCKER_OPTS=${DOCKER_OPTS:-""}
DNS_SERVER_IP=${DNS_SERVER_IP:-"192.168.3.10"}
#RUNTIME_CONFIG=""
"""


def values(text: str, **environment: str) -> dict[str, str | tuple[str, ...]]:
    return {name: variable.value for name, variable in parse(text, environment).items()}


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refusal:
        parse(text)
    return refusal.value.problems


def test_the_articles_file() -> None:
    assert values(ARTICLE) == {
        "nodes": "core@192.168.0.10 core@192.168.0.11 core@192.168.0.12",
        "roles": ("ai", "i", "i"),
        "NUM_MINIONS": "3",
        "PORTAL_NET": "192.168.3.0/24",
        "FLANNEL_NET": "172.16.0.0/16",
        "ADMISSION_CONTROL": "NamespaceLifecycle,NamespaceAutoProvision,LimitRanger,ResourceQuota",
        "DOCKER_OPTS": "",
    }


def test_a_releases_file_and_the_environment_it_asks_for() -> None:
    assert values(RELEASE)["DNS_SERVER_IP"] == "192.168.3.10"
    given = values(RELEASE, NUM_MINIONS="5", KUBE_ENABLE_CLUSTER_MONITORING="false")
    assert given["NUM_MINIONS"] == "5"
    assert given["ENABLE_CLUSTER_MONITORING"] == "false"
    assert given["SERVICE_CLUSTER_IP_RANGE"] == "192.168.3.0/24"


def test_a_variable_knows_its_line_and_its_words() -> None:
    found = parse("\n\nroles='ai  i'\nnodes=(a b)\n")
    assert found["roles"] == Variable("ai  i", 3)
    assert found["roles"].words == ("ai", "i")
    assert found["nodes"].words == ("a", "b")
    assert found["nodes"].text == "a b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1 B=$A", {"A": "1", "B": "1"}),
        ("A=1;B=2 # three", {"A": "1", "B": "2"}),
        ("export A=1 B='2'", {"A": "1", "B": "2"}),
        ("A=1\nexport A", {"A": "1"}),
        ("A='a'\"b\"c\\ d", {"A": "abc d"}),
        ("A='$X `ls`'", {"A": "$X `ls`"}),
        ('A="\\$X \\" \\q"', {"A": '$X " \\q'}),
        ('A="one\\\ntwo"', {"A": "onetwo"}),
        ("A=one\\\ntwo", {"A": "onetwo"}),
        ("A=x#y", {"A": "x#y"}),
        ("A=", {"A": ""}),
        ("A=${NONE}b$NONE", {"A": "b"}),
        ("A=${NONE-d}${X-d}", {"A": "d1 2"}),
        ("A=${EMPTY-d}${EMPTY:-d}", {"A": "d"}),
        ("A=${NONE:-${X:-y}}", {"A": "1 2"}),
        ("A=\"${NONE:-'q'}\"", {"A": "'q'"}),
        ("A=${NONE:-'q r'}", {"A": "q r"}),
        ('A="$"', {"A": "$"}),
        ("A=()", {"A": ()}),
        ('A=("a b"\n  c # of course\n\n "$X" $X)', {"A": ("a b", "c", "1 2", "1", "2")}),
        ("A=(p$X's')", {"A": ("p1", "2s")}),
        ("A=(x y)\nB=$A", {"A": ("x", "y"), "B": "x"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\ufeffA=1", {"A": "1"}),
        ("", {}),
        ("# nothing", {}),
    ],
)
def test_what_is_understood_means_what_the_shell_means(
    text: str, expected: dict[str, str | tuple[str, ...]]
) -> None:
    assert values(text, X="1 2", EMPTY="") == expected


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("A=1\nB=$(rm -rf /)", 2, "command substitution"),
        ("A=`id`", 1, "command substitution"),
        ('A="`id`"', 1, "command substitution"),
        ("A=${X:-$(id)}", 1, "command substitution"),
        ("A=$((1+1))", 1, "command substitution"),
        ("if true; then A=1; fi", 1, "`if`"),
        ("f() {", 1, "a function"),
        ("function f {", 1, "function"),
        ("source other.sh", 1, "`source`"),
        (". other.sh", 1, "`.`"),
        ("A=1 rm x", 1, "a command?"),
        ("rm -rf /", 1, "a command?"),
        ("A+=1", 1, "appending"),
        ("A[0]=1", 1, "one item"),
        ("A = 1", 1, "a blank before `=`"),
        ("A=1 & B=2", 1, "'&"),
        ("A=x|y", 1, "'|'"),
        ("A=<(x)", 1, "'<'"),
        ("A=x>y", 1, "'>'"),
        ("A=~/x", 1, "home folder"),
        ("A=(*)", 1, "pattern character"),
        ("A=([1]=x)", 1, "index"),
        ("A=(x)y", 1, "behind an array"),
        ("A=${X%.*}", 1, "this form of ${X"),
        ("A=${X:=1}", 1, "this form of ${X"),
        ("A=${#X}", 1, "this ${…}"),
        ("A=${!X}", 1, "this ${…}"),
        ("A=$1", 1, "own variable $1"),
        ("A=$'x'", 1, "$'…'"),
        ("\n\nA=(x", 3, "closing parenthesis is missing"),
        ("A='x", 1, "closing ' is missing"),
        ('\nA="x\n\n', 2, 'closing " is missing'),
        ("A=${X:-x", 1, "closing } is missing"),
        ("A=\0", 1, "zero byte"),
    ],
)
def test_everything_else_is_refused_with_its_line(text: str, line: int, named: str) -> None:
    (fault, *_) = faults(text)
    assert fault.startswith(f"line {line}: ")
    assert named in fault


def test_a_refusal_says_what_is_understood() -> None:
    assert "${X:-default}" in faults("A=$(id)")[0]


def test_all_bad_lines_are_told_at_once_and_good_ones_are_not() -> None:
    found = faults("A=$(id)\nB=good\nls\nC=`x`\n")
    assert [fault.split(":")[0] for fault in found] == ["line 1", "line 3", "line 4"]


def test_values_cannot_grow_without_bound() -> None:
    doubling = "A=xxxxxxxxxxxxxxxx\n" + "A=$A$A\n" * 64
    began = time.monotonic()
    assert "grow beyond" in faults(doubling)[0]
    assert "longer than" in faults("A=1\n" * 100_000)[0]
    assert time.monotonic() - began < 5


@given(st.text(max_size=200))
@settings(max_examples=300)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text, {"X": "y z"})
    except ConfigError as refusal:
        problems = refusal.problems
    else:
        return
    assert problems
    assert all(problems)


#: Lines put together from what such files are made of: most are good, all are harmless to a shell.
_ATOMS = st.sampled_from(
    ["a", "b c", "$X", "${X}", "${Y:-d}", "${X-e f}", '"q $X"', "'s $X'", "\\$", "x#y", '"\\""', ""]
)
_SCALARS = st.lists(_ATOMS.filter(lambda atom: " " not in atom or atom[0] in "\"'$"), max_size=4)
_LINES = st.one_of(
    _SCALARS.map(lambda atoms: "A=" + "".join(atoms)),
    st.lists(_ATOMS, max_size=5).map(lambda atoms: f"A=({' '.join(atoms)})"),
)


@given(_LINES)
@settings(max_examples=150, deadline=None)
def test_our_reading_is_bashs_reading(line: str) -> None:
    printed = subprocess.run(
        ["bash", "-c", f'X="1 2"; {line}\nprintf "%s\\0" "${{A[@]}}"'],
        capture_output=True,
        check=True,
        env={},
    ).stdout.decode()
    value = parse(line, {"X": "1 2"})["A"].value
    expected = tuple(printed.split("\0")[:-1])
    assert (value if isinstance(value, tuple) else (value,)) == (expected or ("",)) or (
        value == () and expected == ("",)
    )
