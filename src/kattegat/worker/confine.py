"""What a parsing process takes away from itself before it sees the first byte of evidence.

Limits (setrlimit(2)) everywhere; on Linux also its network (unshare(2)) and the system calls that it has no use for
(seccomp(2)): making processes, running programs, sockets, and every way of changing a file or another process. Each
part is taken where the kernel allows it; `confine` says which were.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from typing import NamedTuple

MEMORY = 512 * 1024 * 1024
CPU_SECONDS = 60
OPEN_FILES = 32

CLONE_THREAD, CLONE_NEWUSER, CLONE_NEWNET = 0x00010000, 0x10000000, 0x40000000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
ALLOW, DENY = 0x7FFF0000, 0x00050000 | errno.EPERM
MISSING = 0x00050000 | errno.ENOSYS
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Classic BPF: load a word of seccomp_data, jump if equal, jump if a bit is set, jump if not below, return.
LOAD, EQUAL, BITS, FROM, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06


class Machine(NamedTuple):
    """The numbers of one architecture: AUDIT_ARCH, the denied calls, and those that are looked into."""

    arch: int
    denied: tuple[int, ...]
    clone: int
    opens: tuple[tuple[int, int], ...]
    """(call, index of its flags argument)."""


# clone3 and openat2 pass their flags through memory, which a filter can't read: they are "not there", and the C
# library falls back to the old ones.
UNREADABLE = (435, 437)
# fmt: off
MACHINES = {
    # From arch/x86/entry/syscalls/syscall_64.tbl of Linux.
    "x86_64": Machine(
        0xC000003E,
        (29, 41, 42, 43, 44, 46, 49, 50, 53, 57, 58, 59, 62, 76, 77, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94,
         101, 132, 133, 155, 160, 161, 165, 166, 200, 234, 235, 240, 258, 259, 260, 261, 263, 264, 265, 266, 268,
         272, 280, 302, 308, 310, 311, 316, 319, 321, 322, 425, 434),
        56,
        ((2, 1), (257, 2)),
    ),
    # From include/uapi/asm-generic/unistd.h of Linux.
    "aarch64": Machine(
        0xC00000B7,
        (33, 34, 35, 36, 37, 38, 39, 40, 41, 45, 46, 51, 52, 53, 54, 55, 88, 97, 117, 129, 130, 131, 164, 180, 194,
         198, 199, 200, 201, 202, 203, 206, 211, 221, 261, 268, 270, 271, 276, 279, 280, 281, 425, 434),
        220,
        ((56, 2),),
    ),
}
# fmt: on


def confine() -> list[str]:
    """Confines this process for good; gives the names of the parts that the kernel granted."""
    granted = ["limits"]
    if sys.platform == "linux" and _leave_network():
        granted.append("network")
    _limit()
    if sys.platform == "linux" and _filter_calls():
        granted.append("calls")
    return granted


def _limit() -> None:
    # A core dump would hold evidence; files can't grow at all.
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, _size() + MEMORY),
    ]
    for which, most in limits:
        hard = resource.getrlimit(which)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (value, value))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)


def _size() -> int:
    """The address space in use now: the interpreter and the plugins, which the limit comes on top of."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 256 * 1024 * 1024


def _leave_network() -> bool:
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is None:
        return False
    # In a user namespace of its own, root is root no longer. Where that is not allowed, root can do without.
    return bool(unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 or unshare(CLONE_NEWNET) == 0)


def program(machine: Machine) -> list[tuple[int, int, int, int]]:
    """The filter as BPF instructions (code, jump if true, jump if false, constant)."""
    made = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, machine.arch), (RETURN, 0, 0, DENY), (LOAD, 0, 0, 0)]
    # Calls of the x32 kind have other numbers.
    made += [(FROM, 0, 1, 0x40000000), (RETURN, 0, 0, DENY)]
    for number in UNREADABLE:
        made += [(EQUAL, 0, 1, number), (RETURN, 0, 0, MISSING)]
    for number in machine.denied:
        made += [(EQUAL, 0, 1, number), (RETURN, 0, 0, DENY)]
    # A thread is no process: some libraries make one.
    made += [(EQUAL, 0, 4, machine.clone), (LOAD, 0, 0, 16), (BITS, 1, 0, CLONE_THREAD)]
    made += [(RETURN, 0, 0, DENY), (RETURN, 0, 0, ALLOW)]
    for number, argument in machine.opens:
        made += [(EQUAL, 0, 4, number), (LOAD, 0, 0, 16 + 8 * argument), (BITS, 0, 1, WRITING)]
        made += [(RETURN, 0, 0, DENY), (RETURN, 0, 0, ALLOW)]
    return [*made, (RETURN, 0, 0, ALLOW)]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _filter_calls() -> bool:
    machine = MACHINES.get(platform.machine())
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if machine is None or prctl is None or sys.byteorder != "little" or sys.maxsize < 2**32:
        return False
    instructions = program(machine)
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    given = _Program(len(instructions), packed)
    zero = ctypes.c_ulong(0)
    if prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) != 0:
        return False
    return bool(prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(given), zero, zero) == 0)
