"""The command line, misused: one line that names what is wrong, exit 1, and never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.cluster import Cluster

from k8slite.cli.main import run

Ctl = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")).running() as running:
        yield running


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ctl:
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.delenv("KUBECONFIG", raising=False)

    def call(*words: str) -> tuple[int, str, str]:
        code = run(["ctl", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files as users have them."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk").mkdir()
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b}]}"
    )
    for name, text in {
        "empty.yaml": "",
        "comments.yaml": "# nothing\n---\n---\n",
        "bad.json": '{"kind":"Pod",',
        "bad.yaml": "kind: Pod\n  metadata: [x\n",
        "list.yaml": "- a\n",
        "kind.yaml": pod.replace("Pod", "Podd"),
        "version.yaml": pod.replace("v1", "v9"),
        "noversion.yaml": pod.replace("apiVersion: v1\n", ""),
        "types.yaml": pod.replace("name: a", "name: 5"),
        "name.yaml": pod.replace("name: x", "name: BAD"),
        "junk/readme.txt": "hello",
        "config": "{bad",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "junk" / "noise.yaml").write_bytes(b"\x80\x81\x00")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("create -f FILES/nothing.yaml", "nothing.yaml: cannot be read: No such file"),
        ("create -f FILES/empty.yaml", "empty.yaml: no objects there"),
        ("create -f FILES/comments.yaml", "comments.yaml: no objects there"),
        ("create -f FILES/empty", "empty: no objects there"),
        ("create -f FILES/junk", "junk/noise.yaml: "),
        ("create -f FILES/bad.json", "bad.json: malformed"),
        ("create -f FILES/bad.yaml", "bad.yaml: malformed YAML: line 2"),
        ("create -f FILES/list.yaml", "list.yaml: expected an object, got a list"),
        ("create -f FILES/kind.yaml", "kind.yaml: there is no kind 'Podd'; did you mean Pod?"),
        ("create -f FILES/version.yaml", "v9"),
        ("create -f FILES/noversion.yaml", "noversion.yaml: the Pod does not say its apiVersion"),
        ("create -f FILES/types.yaml", "types.yaml: spec.containers[0].name: expected a string"),
        ("create -f FILES/name.yaml", 'Pod "BAD" is invalid: metadata.name'),
        ("create", "create: name a file: -f FILE"),
        ("get foo", "there is no resource type 'foo'"),
        ("get pods nope", 'pods "nope" not found'),
        ("get pods ..", 'pods ".." not found'),
        ("get pods -o bad", "-o 'bad' is no output format"),
        ("get pods -l ==", "unable to parse label selector '=='"),
        ("get pods --field-selector bad=1", "field label not supported: bad"),
        ("gte pods", "No such command 'gte'. Did you mean 'get'?"),
        ("delete pod nope", 'pods "nope" not found'),
        ("delete pods", "name the objects, or select them with -l, or say --all"),
        ("delete ns default", 'namespaces "default" is forbidden'),
        ("stop rc nope", 'replicationcontrollers "nope" not found'),
        ("expose rc nope --port=80", 'replicationcontrollers "nope" not found'),
        ("scale rc nope --replicas=-1", "--replicas=-1: say how many: --replicas=N, 0 or more"),
        ("scale rc nope", "say how many: --replicas=N, 0 or more"),
        ("run-container BAD --image=nginx", 'ReplicationController "BAD" is invalid'),
        ("run-container x --image=nginx --port=0", "ports[0].containerPort"),
        ("exec nope -- ls", 'pods "nope" not found'),
        ("logs nope", 'pods "nope" not found'),
        ("label pod nope a=b", 'pods "nope" not found'),
        ("cordon nope", 'nodes "nope" not found'),
        ("rolling-update nope --image=x", 'replicationcontrollers "nope" not found'),
        ("get pods --kubeconfig /nonexistent", "--kubeconfig /nonexistent: there is no such file"),
        ("get pods --kubeconfig FILES/config", "config cannot be read"),
        ("get pods --context nope", "the kubeconfig has no context 'nope'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_1(
    command: Ctl, cluster: Cluster, files: Path, line: str, said: str
) -> None:
    words = line.replace("FILES", str(files)).split()
    cut = words.index("--") if "--" in words else len(words)
    code, out, err = command(*words[:cut], "-s", cluster.server, *words[cut:])
    assert (code, out) == (1, "")
    assert err.count("\n") == 1, err
    assert said in err


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("http://127.0.0.1:9", "The connection to the server 127.0.0.1:9 was refused"),
        ("https://127.0.0.1:PORT", "no TLS with 127.0.0.1:PORT"),
        ("http://127.0.0.1:SECURE", "as https:// if it is such"),
        ("https://127.0.0.1:SECURE", "is not trusted"),
        ("http://127.0.0.1:PORT/foo", "could not find the requested resource"),
        ("ftp://x", "'ftp://x' is no server; write http://HOST"),
        ("http://", "'http://' is no server"),
        ("http://[::1", "'http://[::1' is no server"),
        ("http://127.0.0.1:99999", "'http://127.0.0.1:99999' is no server"),
        ("http://127.0.0.1:http", "is no server"),
    ],
)
def test_a_server_that_is_none(command: Ctl, cluster: Cluster, server: str, said: str) -> None:
    settings = cluster.settings
    for word, port in (("PORT", settings.port), ("SECURE", settings.secure_port)):
        server, said = server.replace(word, str(port)), said.replace(word, str(port))
    code, out, err = command("get", "pods", "-s", server)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1, err
    assert said in err


def test_the_good_documents_of_a_file_are_made_and_the_bad_ones_named(
    command: Ctl, cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "several.yaml"
    path.write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: BAD}\n---\n"
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\ndata: {a: ключ}\n"
    )
    code, out, err = command("create", "-f", str(path), "-s", cluster.server)
    assert (code, out) == (1, "configmaps/good\n")
    assert err.count("\n") == 1
    assert "metadata.name" in err


def test_exec_and_logs_of_a_container_that_does_not_run_say_so(
    command: Ctl, cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: pending}\n"
        "spec: {nodeSelector: {no: such}, containers: [{name: a, image: b}]}\n"
    )
    assert command("create", "-f", str(path), "-s", cluster.server)[0] == 0
    for words in (("exec", "pending", "-s", cluster.server, "--", "ls"),
                  ("logs", "pending", "-s", cluster.server)):  # fmt: skip
        code, out, err = command(*words)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "pending" in err


class Shell:
    """``k8slite ctl`` as a process of its own, with whatever streams the shell gives it."""

    def __init__(self, server: str) -> None:
        self.words = [sys.executable, "-m", "k8slite", "ctl", "-s", server]

    def run(self, line: str, **environment: str) -> tuple[int, str]:
        """``CTL`` in the line is the command; exit code and everything that was shown."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line.replace("CTL", " ".join(self.words))],
            env={**os.environ, "HOME": "/nonexistent", **environment},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.decode()


@pytest.fixture
def shell(cluster: Cluster) -> Shell:
    return Shell(cluster.server)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("CTL get nodes >&-", 0, ""),
        ("CTL create -f - <&-", 1, "Error: standard input: no objects there"),
        ("CTL create -f - </dev/null", 1, "Error: standard input: no objects there"),
        ("CTL get nodes >/dev/full", 1, "Error: No space left on device"),
        ("CTL get nodes nope 2>&-", 1, ""),
        ("CTL get nodes -o yaml | true; exit 0", 0, ""),
    ],
)
def test_streams_that_are_closed_full_or_left(
    shell: Shell, line: str, code: int, said: str
) -> None:
    found, shown = shell.run(line)
    assert "Traceback" not in shown
    assert "Exception ignored" not in shown
    assert shown.startswith(said)
    assert shown.count("\n") <= 1
    assert found == code


def test_text_that_the_terminal_lacks_is_escaped(shell: Shell, command: Ctl) -> None:
    server = shell.words[-1]
    assert command("run-container", "word", "--image=nginx", "--replicas=0", "-s", server)[0] == 0
    assert command("annotate", "rc", "word", "key=ключ", "-s", server)[0] == 0
    code, shown = shell.run("CTL get rc word -o yaml", PYTHONIOENCODING="ascii")
    assert code == 0
    assert r"key: \u043a\u043b\u044e\u0447" in shown
    code, shown = shell.run("CTL get rc word -o yaml", PYTHONIOENCODING="utf-8")
    assert "key: ключ" in shown


def test_a_watch_ends_at_once_and_in_silence_when_interrupted(shell: Shell) -> None:
    watch = subprocess.Popen(
        [*shell.words, "get", "nodes", "-w"],
        env={**os.environ, "HOME": "/nonexistent"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background jobs, this test perhaps among them, are deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert watch.stdout is not None
    assert watch.stdout.readline().startswith(b"NAME")
    watch.stdout.readline()
    began = time.monotonic()
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=20)
    assert (watch.returncode, err) == (130, b"")
    assert time.monotonic() - began < 10
