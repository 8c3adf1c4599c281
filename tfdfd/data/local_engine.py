"""The work on a face set by processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from tfdfd.data.face_record import Record
from tfdfd.data.face_work import FaceWork, VideoJob


def check_workers(workers: int | None) -> None:
    """Raises `ValueError` for a number of workers that is none."""
    if workers is not None and workers < 1:
        raise ValueError(f"the number of workers must be at least 1; received {workers}.")


class LocalEngine:
    """Decodes in processes of this machine.

    Args:
        workers: how many; None: one a core.
    """

    def __init__(self, workers: int | None = None):
        check_workers(workers)
        self._workers = workers

    def run(self, work: FaceWork, phases: Sequence[Sequence[VideoJob]]) -> Iterator[Record]:
        """As `FaceSet.extract` asks of an engine: the record of each job in order, the jobs of a phase once those of
        all before it are done. A few jobs are worked on ahead of the one whose record is wanted next."""
        if not phases:
            return
        workers = self._workers or max(1, min(os.cpu_count() or 1, sum(map(len, phases))))
        with work.extractor(workers) as extractor:
            for jobs in phases:
                yield from extractor.map(lambda job: work.do(job, extractor), jobs, len(jobs))
