"""A systemd unit that keeps a service running, with no more rights than it needs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def text(
    path: Path,
    description: str,
    command: Sequence[str],
    home: Path,
    user: str,
    settings: str,
    *,
    cores: int,
    tasks: int,
    capability: str = "",
    writable: Sequence[Path] = (),
) -> bytes:
    """Return a hardened unit that runs `command` as `user` and may write in `home` only.

    writable: where it may write as well, if that is there when it starts.

    path: where the unit will stand, absolute as `home` is. settings: the lines of [Service] that
    are this service's own. cores, tasks: how many processors it may keep busy, and how many
    processes and threads it may have. capability: the one that it keeps, if any.
    """
    words = " ".join([_word(command[0], expand=False), *(_word(word) for word in command[1:])])
    paths = " ".join(_word(one, expand=False) for one in (str(home), *(f"-{p}" for p in writable)))
    return f"""\
# Install: sudo systemctl enable --now {shlex.quote(str(path).replace(chr(10), " "))}
[Unit]
Description={description}
After=network-online.target
Wants=network-online.target
# Never give up.
StartLimitIntervalSec=0

[Service]
User={user}
ExecStart={words}
WorkingDirectory={str(home).replace("%", "%%")}
Restart=always
TimeoutStopSec=60
# Three quarters of the machine's memory: beyond it what takes most is ended, and the rest goes on.
MemoryMax=75%
OOMPolicy=continue
# 100% is one processor.
CPUQuota={100 * cores}%
# Processes and threads together.
TasksMax={tasks}
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet={capability}
AmbientCapabilities={capability}
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={paths}
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
{settings.rstrip()}

[Install]
WantedBy=multi-user.target
""".encode()


def environment(**values: str) -> str:
    """Return a line of [Service] for each variable."""
    return "".join(f"Environment={_word(f'{k}={v}', expand=False)}\n" for k, v in values.items())


def _word(word: str, *, expand: bool = True) -> str:
    """Quote one word; `expand`: where systemd would replace $NAME, as in a command's arguments."""
    quoted = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + (quoted.replace("$", "$$") if expand else quoted) + '"'
