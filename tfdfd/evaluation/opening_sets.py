"""From what a user names to a set that a model can be judged on."""

from __future__ import annotations

import os
from dataclasses import replace

from tfdfd.data.crops import faces_of, named_set
from tfdfd.data.frame_choice import equally_spaced
from tfdfd.data.leaks import refuse_leaks
from tfdfd.evaluation.absent_videos import absent_videos, video_line
from tfdfd.evaluation.blended_set import BlendedSet
from tfdfd.evaluation.judged_clips import JudgedClips
from tfdfd.evaluation.judged_set import JudgedSet
from tfdfd.evaluation.packed_set import PackedSet, packed_rows
from tfdfd.pipelines.shards import is_packed


def open_set(
    where: str | os.PathLike,
    split: str | None,
    size: int,
    *,
    frames: int | None = None,
    blend: bool = False,
    index: str | os.PathLike | None = None,
    seed: int = 0,
    allow_leaks: bool = False,
    chosen_frames: int | None = None,
) -> JudgedSet:
    """Opens a face set.

    Args:
        where: `faces.csv`, its folder, a folder with `real/` and `fake/`, or one of shards; `NAME=` before it names it.
        split: which crops; None takes all.
        size: side of the square that the network takes.
        frames: of a clip, for a network that takes clips; None for one that takes single crops.
        blend: whether fakes are made of its real crops, and its own fakes passed over.
        index: `index.csv` that the set was extracted from: it knows the labels of videos without crops.
        seed: of blended pairs.
        allow_leaks: whether a set whose splits share sources, people or files is taken all the same.
        chosen_frames: equally spaced crops of each video that are taken; None: all.

    Raises:
        ValueError: no such set, no such split, leaks, or arguments that do not go together.
    """
    name, where = named_set(os.fspath(where))
    if frames and (blend or is_packed(where)):
        raise ValueError("the network takes clips, which are made of files: give a face set, without --blend.")
    if blend and index:
        raise ValueError("--blend makes its own fakes, so that --index has nothing to add; leave one of them out.")
    if is_packed(where):
        if blend or index or chosen_frames:
            raise ValueError(f"{where} is packed; give the face set itself for --blend, --index or --frames.")
        refuse_leaks(packed_rows(where), allow_leaks)
        return PackedSet(where, size, split, name)
    everything = faces_of(where)
    refuse_leaks(everything.rows, allow_leaks)
    # A table without digests would not tell that a crop has been replaced.
    faces = faces_of(everything, split)
    faces = replace(faces, rows=tuple(equally_spaced(faces.rows, chosen_frames))).with_digests()
    if blend:
        return BlendedSet(where, faces, size, split, name, seed)
    opened = (
        JudgedClips(where, faces, size, frames, split, name) if frames else JudgedSet(where, faces, size, split, name)
    )
    found = absent_videos(everything, split, index)
    if found:
        opened.videos_known = True
        opened.absent += tuple(video_line(row, opened.dataset_of(row), status) for row, status in found[0])
        opened.unlabelled = found[1]
    return opened
