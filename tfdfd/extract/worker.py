"""The decoding process: reads requests from standard input, answers on standard output, holds itself to its limits.

Started by `pool.py`, never imported by it: a crash, a hang or a takeover in a decoder ends here.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sys
import threading


def main(config: dict) -> None:
    """Serves requests until standard input ends.

    The process must have been started with the environment of `tfdfd.media.environment`.

    Args:
        config: `detector` (name), `options`, `limits`, `threads`.
    """
    # A terminal's Ctrl-C goes to this process, too. It is the parent's to heed; here it would pass for a crash.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints must not end up between the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        import cv2

        from tfdfd.extract.faces_of import Extraction, Request, faces_of
        from tfdfd.extract.wire import pack
        from tfdfd.faces.detectors import build_detector
        from tfdfd.media.limits import Limits

        limits = Limits(**config["limits"])
        cv2.setNumThreads(config["threads"])
        detector = build_detector(config["detector"], **config["options"])
        threading.Thread(target=_end_with_parent, daemon=True).start()
        _restrict_process(limits)
    except Exception as error:
        from tfdfd.extract.wire import pack

        _send(answers, pack({"fatal": str(error), "usage": isinstance(error, ValueError)}))
        return
    _send(answers, pack({"ready": True}))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        path = os.fsdecode(bytes.fromhex(request.pop("path")))
        # The parent kills a late worker; this is for the day when there is no parent left.
        signal.alarm(math.ceil(limits.max_seconds) + 10)
        try:
            answer = faces_of(path, detector, Request(**request), limits)
        except Exception as error:
            # Media that reading did not foresee, out of memory in detection included (cv2 has its own error for it).
            # It must not stop the other inputs, and not hide either.
            signs = "insufficient memory", "can't start new thread"
            if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs):
                why = "too_large", f"needs more than {limits.max_memory:,} bytes of memory (--max-memory)"
            else:
                why = "decode_error", f"unforeseen failure, please report it: {type(error).__name__}: {error}"
            answer = Extraction(path, None, *why)
        signal.alarm(0)
        _send(answers, pack(answer))


def _end_with_parent():
    """Ends this process, whatever it is doing, when the other end of standard input is closed."""
    if hasattr(select, "poll"):
        hangup = select.poll()
        hangup.register(0, 0)
        hangup.poll()
        os._exit(1)


def _restrict_process(limits):
    try:
        import resource
    except ImportError:  # Windows: wall clock, bytes, pixels and frames still hold
        return
    # Data, not address space: thread stacks and allocator arenas reserve far more than they ever use.
    for name, most in (("DATA", limits.max_memory), ("FSIZE", 0), ("CORE", 0), ("NOFILE", 128)):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        most = int(most) if hard == resource.RLIM_INFINITY else min(int(most), hard)
        resource.setrlimit(kind, (most, most))


def _send(answers, buffers):
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        while view:
            view = view[answers.write(view) :]
