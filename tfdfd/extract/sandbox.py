"""Sandbox of the decoding processes: environment, resource limits, Landlock and seccomp (Linux), by ctypes.

A decoding process loads its libraries and networks, runs them once, and then gives up everything else for good: it can
open, list or create no file, use no network, start no process and signal none. It reads the descriptors that it is
handed, computes, and writes its responses.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from typing import TYPE_CHECKING

from tfdfd.media import Limits

if TYPE_CHECKING:
    import ctypes

# `auto` seals the processes where the kernel can, `require` refuses to decode without, `off` does not seal.
AUTO, REQUIRE, OFF = SANDBOXES = ("auto", "require", "off")

# What a decoding process inherits: where libraries and the interpreter are, and the encoding of text.
_INHERITED = (
    *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
)


class SandboxError(Exception):
    """The kernel lacks a part of the sandbox; the message names it."""


def check_sandbox(sandbox: str) -> None:
    """Raises `ValueError` unless `sandbox` is one of `SANDBOXES`."""
    if sandbox not in SANDBOXES:
        raise ValueError(f"the sandbox must be one of {', '.join(SANDBOXES)}; received {sandbox!r}.")


def worker_environment(limits: Limits) -> dict[str, str]:
    """The environment of a decoding process; no other variable, such as a secret of the caller, reaches it.

    OpenCV reads its variables once, when it is imported: the pixel limit then holds before a pixel is allocated.
    """
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | {
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(limits.max_pixels),
        "OPENCV_LOG_LEVEL": "SILENT",
        # NumPy's linear algebra is not used, and its threads would be idle.
        "OPENBLAS_NUM_THREADS": "1",
    }


def restrict_resources(limits: Limits) -> None:
    """Sets limits of memory, files and descriptors for this process, where the system has them."""
    try:
        import resource
    except ImportError:  # Windows: limits of wall clock, bytes, pixels and frames still hold
        return
    # Data, not address space: thread stacks and allocator arenas reserve far more than they use.
    for name, most in (("DATA", limits.max_memory), ("FSIZE", 0), ("CORE", 0), ("NOFILE", 128)):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        most = int(most) if hard == resource.RLIM_INFINITY else min(int(most), hard)
        resource.setrlimit(kind, (most, most))


def leave_network(sandbox: str) -> None:
    """Moves this process into a network namespace without interfaces, where the system permits and unless `OFF`.

    Must run before a second thread starts. `seal` denies sockets in any case.
    """
    if sys.platform != "linux" or sandbox == OFF:
        return
    new_user, new_network = 0x10000000, 0x40000000
    libc = _libc()
    if libc.unshare(new_network):
        libc.unshare(new_user | new_network)


def seal() -> None:
    """Gives up, for all threads of this process and for good, every right but to compute on open descriptors.

    Raises:
        SandboxError: the kernel or processor lacks a part; the process then keeps the rest of its rights.
    """
    if sys.platform != "linux":
        raise SandboxError(f"Landlock and seccomp need Linux; this is {sys.platform}")
    if os.uname().machine not in _ARCHITECTURES or struct.calcsize("P") != 8:
        raise SandboxError(f"no list of system calls for the processor {os.uname().machine}")
    libc = _libc()
    set_no_new_privileges = 38
    if libc.prctl(set_no_new_privileges, 1, 0, 0, 0):
        raise SandboxError(f"no-new-privileges: {_last_error()}")
    _forbid_files(libc)
    _forbid_calls(libc)


def _libc() -> ctypes.CDLL:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _last_error() -> str:
    import ctypes

    return os.strerror(ctypes.get_errno())


_CREATE_RULESET, _RESTRICT_SELF = 444, 446
# By version of the interface: rights over files, over TCP ports, and over processes outside (`linux/landlock.h`).
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_PORT_RIGHTS, _SCOPES = 2, 2


def _forbid_files(libc: ctypes.CDLL) -> None:
    """A Landlock ruleset that handles every right and grants none."""
    from ctypes import c_size_t

    query_version = 1
    version = libc.syscall(_CREATE_RULESET, None, c_size_t(0), query_version)
    if version < 1:
        raise SandboxError(f"Landlock: {_last_error()}")
    rights = [_FILE_RIGHTS[min(version, 5)]]
    if version >= 4:
        rights.append(_PORT_RIGHTS)
    if version >= 6:
        rights.append(_SCOPES)
    attributes = struct.pack(f"{len(rights)}Q", *((1 << count) - 1 for count in rights))
    ruleset = libc.syscall(_CREATE_RULESET, attributes, c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise SandboxError(f"Landlock: {_last_error()}")
    try:
        if libc.syscall(_RESTRICT_SELF, ruleset, 0):
            raise SandboxError(f"Landlock: {_last_error()}")
    finally:
        os.close(ruleset)


# Numbers of the permitted system calls (x86-64, aarch64), the most frequent first. They read and write descriptors,
# manage memory, synchronize and end threads, and tell the time; None: the processor has no such call.
_PERMITTED = {
    "futex": (202, 98),
    "read": (0, 63),
    "write": (1, 64),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "madvise": (28, 233),
    "mremap": (25, 216),
    "brk": (12, 214),
    "sched_yield": (24, 124),
    "recvmsg": (47, 212),
    "close": (3, 57),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "fstat": (5, 80),
    "poll": (7, None),
    "ppoll": (271, 73),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "sched_getaffinity": (204, 123),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
_MMAP, _MPROTECT, _CLONE, _TGKILL, _SECCOMP = (9, 222), (10, 226), (56, 220), (234, 131), (317, 277)
_CLONE3 = 435
# Column of the tables above, and the kernel's number of the architecture (`linux/audit.h`).
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
# Instructions of the filter (`linux/bpf_common.h`), and its answers (`linux/seccomp.h`).
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _THIRD_ARGUMENT = 0, 4, 16, 32


def _forbid_calls(libc: ctypes.CDLL) -> None:
    """A seccomp filter for all threads: permitted system calls run, all others fail with EPERM."""
    import ctypes

    filter_type, synchronize_threads = 1, 1
    instructions = b"".join(struct.pack("HBBI", *instruction) for instruction in _filter())
    program = ctypes.create_string_buffer(instructions, len(instructions))
    header = struct.pack("HxxxxxxP", len(instructions) // 8, ctypes.addressof(program))
    column, _ = _ARCHITECTURES[os.uname().machine]
    result = libc.syscall(_SECCOMP[column], filter_type, synchronize_threads, header)
    if result:
        raise SandboxError(f"seccomp: {_last_error() if result < 0 else f'thread {result} has another filter'}")


def _filter() -> list[tuple[int, int, int, int]]:
    """The filter's instructions: `(code, instructions to skip if true, if false, operand)`."""
    column, architecture = _ARCHITECTURES[os.uname().machine]
    denied = _FAIL | errno.EPERM
    program: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, denied),
    ]
    program.append((_LOAD, 0, 0, _NUMBER))
    for numbers in _PERMITTED.values():
        if numbers[column] is not None:
            program += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]  # type: ignore[list-item]
    executable, thread = 0x4, 0x10000
    for numbers in (_MMAP, _MPROTECT):  # no memory becomes executable
        program += [(_EQUAL, 0, 4, numbers[column]), (_LOAD, 0, 0, _THIRD_ARGUMENT), (_ANY_BIT, 0, 1, executable)]
        program += [(_RETURN, 0, 0, denied), (_RETURN, 0, 0, _ALLOW)]
    # New threads, but no processes. The C library falls back to `clone`, whose flags a filter can read.
    program += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _FAIL | errno.ENOSYS)]
    program += [(_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 1, thread)]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, denied)]
    # Signals to this process only: `abort` sends one.
    program += [(_EQUAL, 0, 4, _TGKILL[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 0, 1, os.getpid())]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, denied)]
    return [*program, (_RETURN, 0, 0, denied)]
