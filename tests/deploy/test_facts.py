"""One read-only script tells what a host is; its answer is understood wherever it comes from."""

from __future__ import annotations

import json
import os
import socket
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8slite.deploy.facts import SCRIPT, Record, Route, parse, record_text

ANSWER = """\
@@uid
0
@@now
1795783529
@@arch
x86_64
@@libc
ldd (Debian GLIBC 2.36-9) 2.36
@@init
systemd
@@tools
gzip
@@dockerd
Docker version 20.10.24+dfsg1, build 297e128
@@docker
20.10.24+dfsg1
@@daemonjson
{"debug": true}

@@routes
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0100A8C0	0003	0	0	0	00000000	0	0	0
eth0	0000A8C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
@@addresses
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 192.168.0.10
        /32 host LOCAL
     |-- 192.168.0.255
        /32 link BROADCAST
@@disk
/opt /dev/vda 100 50 2048 5% /
/var/lib /dev/vda 100 50 1024 5% /
@@tcp
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1
   1: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1002 1
   2: 0100007F:0017 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 1003 1
   3: 00000000000000000000000000000000:192B 0:0 0A 0 0 0 0 0 1004
@@udp
   0: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2
@@sockets
/proc/7/fd:
lrwx------ 1 root root 64 Nov 27 12:00 3 -> socket:[1001]
/proc/8/fd:
lrwx------ 1 root root 64 Nov 27 12:00 3 -> socket:[1002]
lrwx------ 1 root root 64 Nov 27 12:00 4 -> socket:[1004]
@@names
/proc/7/comm:nginx
/proc/8/comm:python3.11
@@exes
lrwxrwxrwx 1 root root 0 Nov 27 12:00 /proc/8/exe -> /opt/k8slite/abc/bin/python3.11
@@runtime
abc
@@runtimes
abc
bin
@@record
RECORD
@@done
feed
@@data
pki
@@end
"""


def test_an_answer_in_full() -> None:
    nodes = [{"user": "core", "address": "192.168.0.10", "roles": "ai"}]
    found = parse(
        ANSWER.replace(
            "RECORD", record_text("id", nodes, {"PORTAL_NET": "10.0.0.0/24"}, "10.0.0.9")
        )
    )
    assert (found.uid, found.now, found.arch, found.libc) == (0, 1795783529.0, "x86_64", "2.36")
    assert found.systemd
    assert found.missing_tools == ("gzip",)
    assert (found.dockerd, found.docker) == ("20.10.24+dfsg1", "20.10.24+dfsg1")
    assert json.loads(found.daemon_json) == {"debug": True}
    assert found.routes == (Route("192.168.0.0/24", "eth0"),)
    assert found.default_route
    assert found.addresses == ("192.168.0.10",)
    assert found.free == {"/opt": 2048 * 1024, "/var/lib": 1024 * 1024}
    seen = {(one.protocol, one.port): (one.address, one.who, one.ours) for one in found.listeners}
    assert seen == {
        ("tcp", 8080): ("0.0.0.0", "nginx (pid 7)", False),
        ("tcp", 22): ("127.0.0.1", "python3.11 (pid 8)", True),
        ("tcp", 6443): ("0.0.0.0", "python3.11 (pid 8)", True),
        ("udp", 8472): ("0.0.0.0", "", False),
    }
    assert found.ours_running
    assert (found.runtime, found.runtimes, found.done) == ("abc", ("abc", "bin"), "feed")
    assert found.record == Record(
        "id", ("192.168.0.10",), tuple(nodes), (("PORTAL_NET", "10.0.0.0/24"),), "10.0.0.9"
    )
    assert found.data == ("pki",)


@pytest.mark.parametrize("text", ["{", "[]", '{"id": 1}', '{"id":"x","masters":1,"nodes":[]}'])
def test_a_damaged_record_is_known_for_one(text: str) -> None:
    found = parse(ANSWER.replace("RECORD", text))
    assert found.record is None
    assert found.record_damaged


def test_no_docker_and_no_glibc() -> None:
    text = ANSWER.replace("RECORD", "").replace("Docker version 20.10.24+dfsg1, build 297e128", "")
    text = text.replace("20.10.24+dfsg1", "Cannot connect to the Docker daemon")
    found = parse(text.replace("ldd (Debian GLIBC 2.36-9) 2.36", "musl libc (x86_64)"))
    assert (found.dockerd, found.docker) == ("", "")
    assert found.docker_said == "Cannot connect to the Docker daemon"
    assert (found.libc, found.libc_said) == ("", "musl libc (x86_64)")


def test_an_answer_that_broke_off_is_no_answer() -> None:
    with pytest.raises(ValueError, match="broke off"):
        parse(ANSWER.partition("@@end")[0])


@given(st.text(max_size=300))
def test_any_answer_is_read(text: str) -> None:
    parse(text + "\n@@end\n")


@pytest.mark.parametrize("name", ["tcp", "udp", "routes", "disk", "sockets", "names", "exes"])
@given(text=st.text(alphabet="0123456789ABCDEF:/ \t-[]xprocfd", max_size=120))
def test_any_section_is_read(name: str, text: str) -> None:
    parse(f"@@{name}\n{text}\n@@end\n")


def test_the_script_tells_of_this_machine_and_of_who_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = subprocess.run(
            ["sh", "-s"], input=SCRIPT, capture_output=True, text=True, check=True, timeout=30
        )
        found = parse(done.stdout)
        port = listener.getsockname()[1]
    assert done.stderr == ""
    assert found.arch == os.uname().machine
    assert found.uid == os.getuid()
    assert set(found.free) == {"/opt", "/var/lib", "/var/lib/docker"}
    (ours,) = (one for one in found.listeners if (one.protocol, one.port) == ("tcp", port))
    assert ours.address == "127.0.0.1"
    assert f"(pid {os.getpid()})" in ours.who
