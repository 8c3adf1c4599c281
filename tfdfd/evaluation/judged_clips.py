"""A set of clips, for networks over several crops of one face."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tfdfd.data.crops import Faces, clips_of
from tfdfd.data.tables import FaceRow
from tfdfd.evaluation.absent_videos import video_line
from tfdfd.evaluation.judged_set import JudgedSet
from tfdfd.pipelines.datasets import clip_pipeline

# What a video with a single crop is for a network of clips.
_NO_CLIP = "unsupported"


class JudgedClips(JudgedSet):
    """A clip a video, as validation takes them; each row is that of its clip's first crop.

    Args:
        frames: of a clip; others as of `JudgedSet`.

    Raises:
        ValueError: no video has two crops of one face.
    """

    def __init__(
        self, where: str, faces: Faces, size: int, frames: int, split: str | None = None, name: str | None = None
    ):
        super().__init__(where, faces, size, split, name)
        self.frames, self._faces = frames, faces
        self._clips, _ = clips_of(faces.rows, frames)
        if not self._clips:
            raise ValueError(f"{where} has no video with two crops of one face, so no clips; extract more frames.")
        self.rows = tuple(clip.row for clip in self._clips)
        taken = {(row.dataset, row.video) for row in self.rows}
        first = {(row.dataset, row.video): row for row in reversed(faces.rows)}
        left_out = [row for video, row in first.items() if video not in taken]
        self.absent = tuple(video_line(row, self.dataset_of(row), _NO_CLIP) for row in left_out)

    @property
    def sources(self) -> Sequence[FaceRow]:
        return self._faces.rows

    def batches(self, numbers: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
        """RGB float32 `(batch, frames, size, size, 3)` in [0, 1]."""
        positions = np.stack([self._clips[number].frames(self.frames) for number in numbers])
        for clip, _ in clip_pipeline(self._faces, positions, self.size, batch_size).as_numpy_iterator():
            yield clip

    def _files(self, number):
        positions = dict.fromkeys(self._clips[number].frames(self.frames).tolist())
        return [self._faces.path(position) for position in positions]
