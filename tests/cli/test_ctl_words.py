"""How commands are written: kubectl's ways, mistakes, completion, configuration, help."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Ctl

from k8slite.api.kinds import SCHEME
from k8slite.cli.ctl.arguments import normalised
from k8slite.cli.ctl.progress import Progress


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("get pods --watch=true", "get pods --watch"),
        ("get pods -w=false", "get pods"),
        ("get pods -o=json -n=x", "get pods -o json -n x"),
        ("delete rc a --wait=false", "delete rc a --no-wait"),
        ("delete rc a --cascade", "delete rc a --cascade=background"),
        ("create -f x --dry-run", "create -f x --dry-run=client"),
        ("create -f x --dry-run=server", "create -f x --dry-run=server"),
        ("run a --image=b --port=80", "run a --image=b --port=80"),
        ("exec a -i=true -- ls -w=true", "exec a -i -- ls -w=true"),
    ],
)
def test_kubectls_ways_to_write_flags(written: str, meant: str) -> None:
    assert normalised(written.split()) == meant.split()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("gett pods", "No such command 'gett'. Did you mean 'get'?"),
        ("get pdos", "there is no resource type 'pdos'; did you mean 'pods'?"),
        ("get pods --frob", "No such option: --frob"),
        ("get pods -o xml", "-o 'xml' is no output format"),
        ("get", "say a resource type"),
        ("get pods -l a=b=c", "unable to parse label selector"),
        ("get pods,rc -w", "--watch follows one object"),
        ("create", "name a file: -f FILE"),
        ("create -f /nonexistent", "/nonexistent: cannot be read: No such file or directory"),
        ("delete pods --cascade=x", "--cascade=x: write background, foreground or orphan"),
        ("scale rc a", "say how many: --replicas=N"),
        ("scale pods a --replicas=1", "pods have no replicas; name an rc"),
        ("run-container a", "say the image: --image=IMAGE"),
        ("exec", "exec POD -- COMMAND"),
        ("label pods a", "say what to set or remove"),
        ("rolling-update a", "give either -f FILE or --image=IMAGE"),
        ("logs a --since=soon", "--since=soon: write 30s, 5m or 2h"),
        ("get pods --api-version=v9", "known are v1 and v1beta3"),
        ("get pods --context=x", "the kubeconfig has no context 'x'"),
        ("version", "The connection to the server 127.0.0.1:9 was refused"),
    ],
)
def test_every_mistake_is_one_line_with_its_mend(command: Ctl, words: str, said: str) -> None:
    found = command("ctl", *words.split(), "-s", "127.0.0.1:9")
    assert found.code == 1
    assert said in found.err
    assert found.err.count("\n") == 1
    assert "Traceback" not in found.err


def test_global_flags_stand_before_or_after_the_command(command: Ctl) -> None:
    refused = "The connection to the server 127.0.0.1:9 was refused"
    assert refused in command("ctl", "-s", "127.0.0.1:9", "get", "pods").err
    assert refused in command("ctl", "get", "-s", "127.0.0.1:9", "pods").err
    both = command("ctl", "-s", "127.0.0.1:8", "get", "pods", "-s", "127.0.0.1:9")
    assert refused in both.err


def test_the_command_line_without_words_is_its_help(command: Ctl) -> None:
    for words in ((), ("ctl",), ("ctl", "config"), ("ctl", "top")):
        found = command(*words)
        assert found.code == 0
        assert "Usage: k8slite" in found.out


def test_the_help_of_every_command(command: Ctl, golden: Callable[[str, str], None]) -> None:
    """What users can type is looked at as a whole whenever it changes."""
    whole = command("ctl", "--help")
    names = [line.split()[0] for line in whole.out.partition("Commands:")[2].splitlines() if line]
    assert {"get", "run-container", "rolling-update", "config"} <= set(names)
    calls = [*((name,) for name in names), *(("top", of) for of in ("services", "pods", "nodes"))]
    text = whole.out + "".join(command("ctl", *call, "--help").out for call in calls)
    golden("ctl-help.txt", text)


def test_older_names_still_work(command: Ctl) -> None:
    for name in ("update", "run", "resize", "log"):
        assert command("ctl", name, "--help").code == 0


# --- completion ---------------------------------------------------------------------------


@pytest.fixture
def complete(
    command: Ctl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], list[str]]:
    def ask(line: str) -> list[str]:
        monkeypatch.setenv("_K8SLITE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - (not line.endswith(" "))))
        with pytest.raises(SystemExit):
            command()
        monkeypatch.delenv("_K8SLITE_COMPLETE")
        return capsys.readouterr().out.split()

    return ask


def test_the_shell_completes_commands_types_and_names(
    complete: Callable[[str], list[str]], ctl: Ctl, cluster: object
) -> None:
    assert "get" in complete("k8slite ctl ge")
    assert complete("k8slite ctl get replicationc") == ["replicationcontrollers"]
    assert complete("k8slite ctl get pods,serviceacc") == ["pods,serviceaccounts"]
    server = cluster.server  # type: ignore[attr-defined]
    assert set(complete(f"k8slite ctl -s {server} get services ")) >= {"kubernetes"}
    assert complete(f"k8slite ctl -s {server} get service/kubernetes-") == ["service/kubernetes-ro"]
    assert set(complete(f"k8slite ctl -s {server} top services ")) >= {"kubernetes"}
    assert complete("k8slite ctl top ser") == ["services"]
    assert complete("k8slite ctl -s 127.0.0.1:9 get services ") == []


# --- config -------------------------------------------------------------------------------


def test_config_writes_a_kubeconfig_that_the_commands_use(
    command: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert "no current context" in command("ctl", "config", "current-context").err
    for words in (
        ("set-cluster", "c", "--server=http://127.0.0.1:9"),
        ("set-credentials", "u", "--token=secret"),
        ("set-context", "x", "--cluster=c", "--user=u", "--namespace=n"),
        ("use-context", "x"),
    ):
        assert command("ctl", "config", *words).code == 0
    assert command("ctl", "config", "current-context").out == "x\n"
    shown = yaml.safe_load(command("ctl", "config", "view").out)
    assert shown["users"] == [{"name": "u", "user": {"token": "REDACTED"}}]
    assert "secret" in command("ctl", "config", "view", "--raw").out
    template = "jsonpath={.contexts[0].context.namespace}"
    assert command("ctl", "config", "view", "--minify", "-o", template).out == "n"
    assert "127.0.0.1:9" in command("ctl", "get", "pods").err
    absent = command("ctl", "config", "use-context", "y")
    assert absent.err == "Error: the kubeconfig has no context 'y' (it has: x)\n"
    path.write_text("[")
    broken = command("ctl", "get", "pods")
    assert (broken.code, broken.err.count("\n")) == (1, 1)
    assert str(path) in broken.err


def test_certificates_are_named_or_embedded(
    command: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    (tmp_path / "ca.crt").write_text("pem")
    authority = f"--certificate-authority={tmp_path / 'ca.crt'}"
    command("ctl", "config", "set-cluster", "c", authority)
    view = ("ctl", "config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster}")
    assert command(*view).out == f'{{"certificate-authority":"{tmp_path / "ca.crt"}"}}'
    command("ctl", "config", "set-cluster", "c", authority, "--embed-certs")
    assert command(*view).out == '{"certificate-authority-data":"cGVt"}'


# --- progress -----------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_rewrites_its_line_and_leaves_nothing_behind() -> None:
    terminal = Terminal()
    with Progress(terminal) as progress:
        progress.show("3 left")
        progress.show("3 left")
        progress.show("2 left")
    assert terminal.getvalue() == "\r\x1b[K3 left\r\x1b[K2 left\r\x1b[K"


def test_progress_is_silent_where_nobody_looks() -> None:
    file = io.StringIO()
    with Progress(file) as progress:
        progress.show("3 left")
    assert file.getvalue() == ""


def test_every_type_can_be_asked_for(ctl: Ctl) -> None:
    for kind in SCHEME:
        if "list" in kind.verbs:
            assert ctl("get", kind.plural).code == 0
