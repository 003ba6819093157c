"""Shut this process in: from then on it reaches the files it was told, and no network.

Locks of the Linux kernel that need no privileges, and that neither this process nor its children
can open again:

- **Landlock** for files, for TCP, and against looking into or signalling processes outside: their
  `/proc/PID/mem`, `environ` and `ptrace` are closed, also to the same user, also to root.
- **seccomp** for sockets, because Landlock knows TCP only: UDP, raw and Unix sockets would be left.
  No new socket of any kind can be made (a pair of connected ones can). It needs no namespace, so
  it works where containers forbid these.
- **capabilities**: root gives up all but to overlook who owns a file that is allowed. With others
  it could read the environment of any process, or replace the kernel.
- a **network namespace** of its own, where the process is privileged enough to get one.

What is open already stays open: pass nothing on that should not be used. What the locks do not
cover: CPU time, memory, and reading the names and command lines of other processes in `/proc`.
Landlock: Salaün 2017-2024, https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
# The same numbers on every architecture: they came after numbering was unified.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_NO_NEW_PRIVS, _SET_SECCOMP, _SECCOMP_FILTER = 38, 22, 2
_NEW_NETWORK = 0x40000000
_OVERRIDE = 1 << 1

# Rights on files, by bit; the later ones came with later versions of the interface.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REGULAR = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
# No symbolic link, device, pipe or socket: whoever reads the folder later must not stumble on one.
_WRITE = (_READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE) | (
    _MAKE_DIR | _MAKE_REGULAR | _REFER | _TRUNCATE
)
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_TCP = 0b11
_SCOPES = 0b11

# (AUDIT_ARCH, socket, io_uring_setup): a ring can make sockets without the call.
_SYSTEMS = {"x86_64": (0xC000003E, 41, 425), "aarch64": (0xC00000B7, 198, 425)}
_DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True)
class Confinement:
    """What is in force. landlock: version of the interface.

    tcp: no TCP connection can be made or awaited. sockets: no socket of any kind. namespace: its
    own, empty network. processes: nothing outside can be signalled or reached over an abstract
    socket (looking into them is always closed).
    """

    landlock: int
    tcp: bool
    sockets: bool
    namespace: bool
    processes: bool


def available() -> int:
    """Return the version of Landlock's interface that the kernel speaks; 0: none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def restrict(read: Iterable[Path], write: Iterable[Path], *, network: bool = False) -> Confinement:
    """Shut this process and all its later children in, for good; returns what is in force.

    read: files and folders below which it may read and execute. write: those below which it may
    read, write, make and remove files; not execute. What does not exist is skipped. Links are
    followed once, here: what a link inside points to must be allowed itself. Beside them only the
    harmless devices and the GPU's can be opened. Temporary files go into the last folder of `write`
    from now on, as torch looks for such a place. network: leave it open.

    Raises OSError, with the mend, when the kernel has no Landlock, when the process has a second
    thread (that one would stay outside), and when no lock on the network holds.
    """
    version = available()
    if not version:
        raise OSError(
            errno.ENOSYS,
            "sandbox: must have Landlock (Linux 5.13, and `landlock` in /sys/kernel/security/lsm), "
            "got a kernel without; use a newer one, or, if approved code may read all that this "
            "user can, set limits.sandbox = false in site.toml",
        )
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise OSError(
            errno.EBUSY,
            f"sandbox: must be set up while the process has one thread, got {threads}; start it "
            "with OPENBLAS_NUM_THREADS=1, and call torch.set_num_threads afterwards",
        )
    write = list(write)
    rights = _known(version)
    # PR_SET_DUMPABLE stays as it is: cleared it would guard this process against its own user, who
    # has all that it has, and would close /proc/self/fd, which libraries read.
    _check(_LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    namespace = not network and _LIBC.unshare(_NEW_NETWORK) == 0
    _give_up_capabilities()
    tcp = not network and version >= 4
    attributes = struct.pack("=QQQ", rights, _TCP * tcp, _SCOPES * (version >= 6))
    # An older kernel refuses fields that it does not know.
    attributes = attributes[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _check(
        _LIBC.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "ruleset"
    )
    try:
        for path in read:
            _allow(ruleset, path, _READ & rights)
        for path in write:
            _allow(ruleset, path, _WRITE & rights)
        for device in _devices():
            _allow(ruleset, device, (_READ | _WRITE | _IOCTL) & rights)
        _check(_LIBC.syscall(_RESTRICT_SELF, ruleset, 0), "restrict_self")
    finally:
        os.close(ruleset)
    for folder in (path for path in write if path.is_dir()):
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    sockets = not network and _forbid_sockets()
    if not (network or tcp or sockets or namespace):
        raise OSError(
            errno.ENOSYS,
            f"sandbox: must close the network, got Landlock {version} without TCP and no seccomp "
            f"for {platform.machine()}; use Linux 6.7 or later",
        )
    return Confinement(version, tcp, sockets, namespace, version >= 6)


def python_paths() -> list[Path]:
    """Return what an interpreter with torch has to read, to be given to `restrict`.

    The interpreter's own folders and `sys.path`, without an empty entry; the system's libraries;
    of `/etc` only what loaders and clocks read; `/proc` and `/sys`. A folder in `sys.path` that
    holds a site's folder would open it: the caller starts the interpreter elsewhere (`python -P`).
    """
    own = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, sys.executable]
    system = ["/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt/cuda", "/proc", "/sys"]
    names = ["ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone"]
    names += ["passwd", "group", "nsswitch.conf", "hosts", "ssl/openssl.cnf", "ssl/certs"]
    settings = [f"/etc/{name}" for name in names]
    paths = [*own, *(entry for entry in sys.path if entry), *system, *settings]
    return [Path(path) for path in dict.fromkeys(paths) if os.path.exists(path)]


def _devices() -> list[Path]:
    nvidia = [*Path("/dev").glob("nvidia*"), *Path("/dev/nvidia-caps").glob("*")]
    return [Path("/dev") / name for name in _DEVICES] + [p for p in nvidia if not p.is_dir()]


def _known(version: int) -> int:
    """Return the rights on files that this version can take away."""
    bits = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    return (1 << bits) - 1


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _OF_A_FILE
        rule = struct.pack("=Qi", rights, opened)
        _check(_LIBC.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0), str(path))
    finally:
        os.close(opened)


def _give_up_capabilities() -> None:
    header = struct.pack("=Ii", 0x20080522, 0)
    now = ctypes.create_string_buffer(24)
    _check(_LIBC.capget(header, now), "capget")
    effective, permitted = (number & _OVERRIDE for number in struct.unpack_from("=II", now))
    _check(_LIBC.capset(header, struct.pack("=6I", effective, permitted, 0, 0, 0, 0)), "capset")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _forbid_sockets() -> bool:
    """Make `socket` fail with EACCES from now on; False where the kernel or machine is unknown."""
    if platform.machine() not in _SYSTEMS:
        return False
    architecture, socket, ring = _SYSTEMS[platform.machine()]
    load, equal, greater, end = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EACCES
    # Offsets 4 and 0 of the kernel's record of a call: the architecture and the call's number.
    # Another architecture (32 bit calls) or numbering (x32) would get around the filter.
    steps = [
        (load, 0, 0, 4),
        (equal, 0, 5, architecture),
        (load, 0, 0, 0),
        (greater, 3, 0, 0x40000000),
        (equal, 2, 0, socket),
        (equal, 1, 0, ring),
        (end, 0, 0, allow),
        (end, 0, 0, refuse),
    ]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    return bool(_LIBC.prctl(_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(program), 0, 0) == 0)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(
            number,
            f"sandbox: {what}: {os.strerror(number)}; nothing of the bundle was run; set "
            "limits.sandbox = false in site.toml only if approved code may read all that this "
            "user can",
        )
    return result
