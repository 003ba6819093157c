"""What approved code may try against the machine, one attempt each; a program, never imported.

`hostile.py HOME CHECKOUT VICTIM VERSION` shuts itself in as a worker does, tries everything, and
prints JSON objects, the last of which is complete: the name of each attempt, and "open" or the
kernel's error. VICTIM is the process that must not be reached, the site's own; VERSION that of
Landlock, of which no more is used than an old kernel would have.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import signal
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"
# Not from fedlite's own table: x86_64, aarch64.
NUMBERS = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "vfork": (58, None),
    "execveat": (322, 281),
    "memfd_create": (319, 279),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "mount": (165, 40),
    "fsopen": (430, 430),
    "open_tree": (428, 428),
    "name_to_handle_at": (303, 264),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "ioprio_set": (251, 30),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "setrlimit": (160, 164),
    "truncate": (76, 45),
    "splice": (275, 76),
    "vmsplice": (278, 75),
    "kcmp": (312, 272),
    "seccomp": (317, 277),
    "swapoff": (168, 225),
}


def call(name: str, *arguments: object) -> int:
    """Make a system call by its number; raises OSError when the kernel refuses."""
    number = NUMBERS[name][ARM]
    if number is None:
        raise OSError(errno.ENOSYS, "not on this machine")
    result = LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return int(result)


def shut_in(home: Path, checkout: Path, version: int) -> None:
    """Do what the worker does before it imports a bundle, with this version of Landlock."""
    from fedlite.deployment import sandbox
    from fedlite.deployment.bounds import bound_process
    from fedlite.deployment.readable import python_paths

    sandbox.available = lambda: version  # type: ignore[assignment]
    # An editable install of another package, beside which the site's folder was made.
    sys.path.append(str(checkout))
    bound_process()
    sandbox.restrict([*python_paths(), home / "open"], [home / "state"])


def born(pid: int) -> None:
    """A child is enough: what it would do next is up to it."""
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0x40000000)


def outlive(state: Path) -> None:
    """Leave a process behind that has no tie to this one: fork, setsid, fork."""
    if pid := os.fork():
        os.waitpid(pid, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    (state / "survivor").write_text(str(os.getpid()))
    signal.pause()


def run(program: str) -> None:
    import subprocess

    subprocess.run([program], check=True, timeout=10)


def memory_file() -> None:
    descriptor = call("memfd_create", b"x", 0)
    os.write(descriptor, b"#!/bin/true\n")
    call("execveat", descriptor, b"", (ctypes.c_char_p * 1)(None), None, 0x1000)


def peek(victim: int, address: int, *, write: bool) -> None:
    own = ctypes.create_string_buffer(8)
    here = struct.pack("=QQ", ctypes.addressof(own), 8)
    there = struct.pack("=QQ", address, 8)
    call("process_vm_writev" if write else "process_vm_readv", victim, here, 1, there, 1, 0)


def signal_by_pipe(victim: int) -> None:
    """Let the kernel send the victim a signal when a pipe of one's own can be read."""
    reader, writer = os.pipe()
    fcntl.fcntl(reader, 8, victim)
    fcntl.fcntl(reader, 10, signal.SIGURG)
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
    os.write(writer, b"x")


def cut_by_reading(path: Path, mode: int) -> None:
    os.close(os.open(path, mode | os.O_TRUNC))
    if path.stat().st_size:
        raise OSError(errno.EACCES, "still whole")


def cut(path: Path) -> None:
    call("truncate", os.fsencode(path), ctypes.c_long(0))


def steal(victim: int) -> None:
    call("pidfd_getfd", call("pidfd_open", victim, 0), 0, 0)


def end(victim: int) -> None:
    call("pidfd_send_signal", call("pidfd_open", victim, 0), 0, None, 0)


def bound_of_files() -> None:
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        raise OSError(errno.EFBIG, "bounded")


def raise_bounds() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ValueError as error:  # what Python makes of EPERM
        raise OSError(errno.EPERM, str(error)) from None


def live_on() -> None:
    if LIBC.prctl(1, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def undumpable() -> None:
    if LIBC.prctl(4, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def terminal() -> None:
    """Type a command into the terminal that was left open as standard input."""
    fcntl.ioctl(0, 0x5412, b"x")


def attempts(home: Path, checkout: Path, victim: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield every attempt by its name, harmless ones first."""
    key, state, ledger = home / "keys/node.pem", home / "state", home / "ledgers/a.jsonl"
    readable = home / "open/a.txt"
    address = int((home / "open/address").read_text())
    yield "read the key", key.read_text
    yield "read the key by the checkout", (checkout / "hospital/keys/node.pem").read_text
    yield "list the checkout", lambda: os.listdir(checkout)
    yield "read the key by /proc/PID/root", Path(f"/proc/{victim}/root{key}").read_text
    yield "read the key by /proc/PID/cwd", Path(f"/proc/{victim}/cwd/keys/node.pem").read_text
    yield "read /proc/PID/fd", lambda: os.readlink(f"/proc/{victim}/fd/0")
    yield "read /proc/PID/environ", Path(f"/proc/{victim}/environ").read_bytes
    yield "open /proc/PID/mem", lambda: os.open(f"/proc/{victim}/mem", os.O_RDWR)
    yield (
        "write /proc/PID/oom_score_adj",
        lambda: Path(f"/proc/{victim}/oom_score_adj").write_text("1000"),
    )
    yield (
        "reopen what was opened by O_PATH",
        lambda: os.open(f"/proc/self/fd/{os.open(key, os.O_PATH)}", os.O_RDONLY),
    )
    yield "change the mode of a key", lambda: os.chmod(key, 0o644)
    yield "change the owner of a key", lambda: os.chown(key, os.getuid(), os.getgid())
    yield "change the time of a ledger", lambda: os.utime(ledger, (1, 1))
    yield "mark a ledger", lambda: os.setxattr(ledger, "user.x", b"x")
    yield "cut a readable file", lambda: cut_by_reading(readable, os.O_RDONLY)
    yield "cut a ledger by mode 3", lambda: cut_by_reading(ledger, 3)
    yield "cut a ledger", lambda: cut(ledger)
    yield "link a key", lambda: os.link(key, state / "hard")
    yield "link to a key", lambda: os.symlink(key, state / "soft")
    yield "leave a pipe", lambda: os.mkfifo(state / "pipe")
    yield "leave a socket", lambda: os.mknod(state / "socket", stat.S_IFSOCK | 0o600)
    yield "leave a device", lambda: os.mknod(state / "null", stat.S_IFCHR, os.makedev(1, 3))
    yield "write the bundle", lambda: (home / "open/new").write_text("x")
    yield "write without a bound", bound_of_files
    yield "set bounds", raise_bounds
    yield "outlive the parent's death", live_on
    yield "become undumpable", undumpable
    yield "type into a terminal", terminal
    yield "read the victim's memory", lambda: peek(victim, address, write=False)
    yield "write the victim's memory", lambda: peek(victim, address, write=True)
    yield "trace the victim", lambda: call("ptrace", 0x4206, victim, 0, 0)
    limit = struct.pack("=QQ", 0, 0)
    yield "bound the victim", lambda: call("prlimit64", victim, 6, limit, 0)
    yield (
        "see the victim's bounds",
        lambda: call("prlimit64", victim, 6, None, ctypes.create_string_buffer(16)),
    )
    yield "bound itself", lambda: call("prlimit64", 0, 4, limit, 0)
    for name in ("kill", "tkill"):
        yield f"signal the victim by {name}", lambda name=name: call(name, victim, 0)  # type: ignore[misc]
    yield "signal the victim by tgkill", lambda: call("tgkill", victim, victim, 0)
    yield "signal the victim by pidfd", lambda: end(victim)
    yield "signal the victim by a pipe", lambda: signal_by_pipe(victim)
    yield "signal the whole group", lambda: call("kill", 0, 0)
    yield "take a descriptor of the victim", lambda: steal(victim)
    yield "slow the victim down", lambda: call("setpriority", 0, victim, 10)
    yield (
        "hold the victim on a core",
        lambda: call("sched_setaffinity", victim, 8, struct.pack("=Q", 1)),
    )
    yield (
        "set the victim's scheduler",
        lambda: call("sched_setscheduler", victim, 5, struct.pack("=i", 0)),
    )
    yield "slow the victim's disk", lambda: call("ioprio_set", 1, victim, 3 << 13)
    yield "compare with the victim", lambda: call("kcmp", os.getpid(), victim, 0, 0, 0)
    yield "keyring", lambda: call("keyctl", 0, -3, 1)
    yield "key", lambda: call("add_key", b"user", b"x", b"x", 1, -2)
    yield "shared memory", lambda: call("shmget", 0, 4096, 0o1600)
    yield "message queue", lambda: call("msgget", 0, 0o1600)
    yield "semaphores", lambda: call("semget", 0, 1, 0o1600)
    yield "posix queue", lambda: call("mq_open", b"fedlite-hostile", os.O_CREAT, 0o600, None)
    yield "namespaces", lambda: call("unshare", 0x10000000)
    yield "faults of memory", lambda: call("userfaultfd", 1)
    yield "a ring", lambda: call("io_uring_setup", 1, ctypes.create_string_buffer(120))
    yield "a file of memory", lambda: call("memfd_create", b"x", 0)
    yield "watching files", lambda: call("inotify_init1", 0)
    yield "personality", lambda: call("personality", 0x0040000)
    yield (
        "handle of a file",
        lambda: call(
            "name_to_handle_at", -100, os.fsencode(key), struct.pack("=Ii128x", 128, 0), b"    ", 0
        ),
    )
    yield "a tree of mounts", lambda: call("open_tree", -100, os.fsencode(home), 0)
    yield "another filter", lambda: call("seccomp", 2, 0, ctypes.c_char_p(b""))
    yield "a socket", lambda: call("socket", 2, 2, 0)
    yield "a pair of sockets", lambda: call("socketpair", 1, 1, 0, struct.pack("=ii", 0, 0))
    yield "pages of a pipe", lambda: call("vmsplice", os.pipe()[1], struct.pack("=QQ", 0, 0), 0, 0)
    yield "a session", lambda: call("setsid")
    yield "fork", lambda: born(os.fork())
    yield "clone", lambda: born(call("clone", signal.SIGCHLD, 0, 0, 0, 0))
    yield "clone without a word", lambda: born(call("clone", 0, 0, 0, 0, 0))
    yield "clone3", lambda: born(call("clone3", struct.pack("=11Q", *[0] * 11), 88))
    yield "spawn", lambda: os.posix_spawn("/bin/true", ["true"], {})
    yield "run a program", lambda: run("/bin/true")
    yield "outlive", lambda: outlive(state)
    yield "become a file of memory", memory_file
    yield "become a program", lambda: os.execv("/bin/sleep", ["sleep", "0"])


def needed(state: Path) -> None:
    """Do what must still be possible; raises where it is not."""
    thread = threading.Thread(target=os.getpid)
    thread.start()
    thread.join()
    (state / "x").write_text("x")
    os.replace(state / "x", state / "y")
    with open(state / "y", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ).close()
    with open("/dev/null", "wb") as null:
        null.write(os.urandom(3))
    resource.getrlimit(resource.RLIMIT_NOFILE)


def main() -> None:
    """Try everything and print what came of it."""
    home, checkout, victim = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    shut_in(home, checkout, int(sys.argv[4]))
    needed(home / "state")
    found: dict[str, str] = {}
    for name, attempt in attempts(home, checkout, victim):
        if name.startswith("become a "):  # nothing can be told afterwards
            print(json.dumps(found), flush=True)
        print(name, file=sys.stderr, flush=True)
        try:
            attempt()
            found[name] = "open"
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno or 0, "?")
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
