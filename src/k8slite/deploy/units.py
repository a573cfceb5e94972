"""How a host keeps a process running: a systemd unit, or an init script with a loop. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

RUN = "/run/k8slite"
LOGS = "/var/log/k8slite"
#: A log that has grown beyond this many bytes is put aside, over the one before.
_LOG_LIMIT = 10 << 20
_FILES = 1 << 20  # descriptors


@dataclass(frozen=True, slots=True)
class Service:
    """A process that shall run from boot to shutdown, and be started again whenever it ends."""

    name: str
    words: tuple[str, ...]
    told: str
    after: tuple[str, ...] = ()


def systemd_unit(service: Service) -> str:
    """Only the process itself is ended with it: containers and what it began go on."""
    after = " ".join(["network-online.target", *(f"{name}.service" for name in service.after)])
    words = " ".join(_systemd_word(word) for word in service.words)
    return f"""\
# Written by k8slite.
[Unit]
Description={service.told}
After={after}
Wants={after}
StartLimitIntervalSec=0

[Service]
ExecStart={words}
Restart=always
RestartSec=1
KillMode=process
LimitNOFILE={_FILES}
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""


def _systemd_word(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(c in word for c in " \"'\\;") or not word else escaped


def init_script(service: Service) -> str:
    """An LSB script (start, stop, restart, status) over a loop that starts the process again."""
    after = " ".join(service.after)
    return _SCRIPT.format(
        name=service.name,
        told=service.told,
        after=f" {after}" if after else "",
        words=_shell_words(service.words),
        run=RUN,
        logs=LOGS,
        limit=_LOG_LIMIT,
        files=_FILES,
    )


def _shell_words(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


_SCRIPT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          {name}
# Required-Start:    $network $remote_fs $local_fs
# Required-Stop:     $network $remote_fs $local_fs
# Should-Start:      $time{after}
# Should-Stop:       $time{after}
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: {told}
### END INIT INFO
# Written by k8slite.

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
pidfile={run}/{name}.pid     # of the loop
childfile={run}/{name}.child # of what it keeps running, and of what keeps its log short
log={logs}/{name}.log

run() {{
    ulimit -n {files} 2>/dev/null || true
    exec {words}
}}

line_of() {{ tr '\\000' ' ' 2>/dev/null </proc/"$1"/cmdline; }}

loop() {{ # the pid of the loop, if it runs
    pid=$(cat $pidfile 2>/dev/null) && [ -n "$pid" ] || return 1
    case "$(line_of "$pid")" in *"{name} supervise"*) echo "$pid" ;; *) return 1 ;; esac
}}

end() {{ # pid seconds: TERM, and KILL if it is still there then
    kill -TERM "$1" 2>/dev/null || return 0
    left=$(($2 * 10))
    while kill -0 "$1" 2>/dev/null; do
        [ $left -gt 0 ] || {{ kill -KILL "$1" 2>/dev/null; return 0; }}
        left=$((left - 1))
        sleep 0.1
    done
}}

end_orphan() {{ # a process that outlived its loop
    child= keeper=
    read -r child keeper 2>/dev/null <$childfile || return 0
    case "$(line_of "$child")" in /opt/k8slite/* | dockerd*) end "$child" 20 ;; esac
    case "$(line_of "$keeper")" in *"{name} supervise"*) end "$keeper" 2 ;; esac
    rm -f $childfile
}}

put_aside() {{
    [ "$(wc -c <$log)" -le {limit} ] || {{ cp $log $log.1 && : >$log; }}
}}

keep_log_short() {{
    nap=
    trap '[ -z "$nap" ] || kill $nap; exit 0' TERM
    while kill -0 $$ 2>/dev/null; do # as long as the loop is there
        sleep 60 &
        nap=$!
        wait $nap
        put_aside
    done
}}

recorded() {{ # known before it runs, should its loop be killed in between
    read -r own rest </proc/self/stat
    echo "$own $keeper" >$childfile
    run
}}

supervise() {{
    echo $$ >$pidfile
    end_orphan
    stopping= child= nap= delay=1
    trap 'stopping=1; kill -TERM $child $nap 2>/dev/null' TERM INT
    keep_log_short &
    keeper=$!
    while [ -z "$stopping" ]; do
        began=$(date +%s)
        recorded </dev/null >>$log 2>&1 &
        child=$!
        [ -z "$stopping" ] || kill -TERM $child # told before we knew the child
        while kill -0 $child 2>/dev/null; do wait $child; done
        child=
        [ -z "$stopping" ] || break
        [ $(($(date +%s) - began)) -lt 60 ] || delay=1
        sleep $delay &
        nap=$!
        [ -z "$stopping" ] || kill $nap
        wait $nap
        nap=
        delay=$((delay * 2))
        [ $delay -le 30 ] || delay=30
    done
    kill -TERM $keeper 2>/dev/null
    wait $keeper
    rm -f $pidfile $childfile
}}

start() {{
    loop >/dev/null && return 0
    mkdir -p {run} {logs}
    setsid sh /etc/init.d/{name} supervise </dev/null >/dev/null 2>&1 &
    tries=50
    while ! loop >/dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || {{ echo "{name}: does not start" >&2; return 1; }}
        sleep 0.1
    done
}}

stop() {{
    if pid=$(loop); then end "$pid" 30; fi
    end_orphan
    rm -f $pidfile
}}

case "$1" in
    start) start ;;
    stop) stop ;;
    restart | force-reload) stop && start ;;
    status)
        pid=$(loop) || {{ echo "{name} is stopped"; exit 3; }}
        echo "{name} runs (pid $pid)"
        ;;
    supervise) supervise ;;
    *) echo "Usage: $0 start|stop|restart|status" >&2; exit 2 ;;
esac
"""
