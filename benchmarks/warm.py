"""Times of a `Detector` that has worked before, on one clip and on two at once, as JSON. Run by `benchmarks.detect`."""

from __future__ import annotations

import json
import os
import sys
import time


def main(clip: str, twin: str, rounds: int) -> dict:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from tfdfd import Detector

    times = {"one_s": [], "two_s": []}
    with Detector() as detector:
        detector.detect_many([clip, twin])
        for _ in range(rounds):
            for key, clips in (("one_s", [clip]), ("two_s", [clip, twin])):
                begun = time.perf_counter()
                outcomes = detector.detect_many(clips)
                times[key].append(time.perf_counter() - begun)
                if any(outcome.status != "ok" for outcome in outcomes):
                    raise SystemExit(f"not scored: {[outcome.message for outcome in outcomes]}")
    return times


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
