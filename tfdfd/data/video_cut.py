"""One video or image being cut: from what the decoding process answers to crops, boxes and a record, in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data.boxes import FaceBox, write_boxes
from tfdfd.data.face_options import DROP, FaceOptions
from tfdfd.data.face_record import MULTIPLE, Record
from tfdfd.data.faces_rule import has_multiple_faces, kept_faces
from tfdfd.extract.extraction import MAX_CROPS, Extraction, FrameFaces, Request, damage_note, too_damaged
from tfdfd.faces.tracks import link_faces

# Frames of one answer where a video is read piece by piece: up to four faces of each are within `MAX_CROPS`.
WINDOW = MAX_CROPS // 4
_THUMB = 24


class VideoCut:
    """One video being cut into `partial`: `crops/`, `boxes.json`."""

    def __init__(self, options: FaceOptions, partial: Path, ask: Callable[[Request], Extraction]):
        self._options, self._partial, self._ask = options, partial, ask

    def run(self, row, boxes, whose):
        parts = self._detected() if boxes is None else self._by_boxes(boxes)
        looked_at: list[tuple[FrameFaces, list[np.ndarray], list[int], list[str]]] = []
        notes, kind, duration, damaged = [], row.kind, None, 0
        for part in parts:
            kind, duration = part.kind or kind, part.duration_s
            damaged += part.frames_damaged
            if part.status not in ("ok", "no_face"):
                return Record(row.path, part.status, part.message, kind)
            # A part without a face begins its message with that; the whole may have some.
            faceless, _, rest = (part.message or "").partition("; ")
            note = part.message if part.status == "ok" else rest
            notes += [note] if note and note not in notes else []
            for frame in part.frames:
                stored = None if boxes is None else self._kept(boxes[frame.index])
                kept = list(range(len(stored))) if boxes is not None else self._kept_of(frame)
                digests = [self._write(frame.index, i, frame.faces[i].crop) for i in kept]
                thumbs = [cv2.resize(f.crop, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA) for f in frame.faces]
                for face in frame.faces:
                    face.crop = None
                looked_at.append((frame, thumbs, kept, digests))
        if refusal := too_damaged(damaged, len(looked_at)):
            return Record(row.path, "decode_error", refusal, kind)
        if damaged and (note := damage_note(damaged, len(looked_at))) not in notes:
            notes.insert(0, note)
        if boxes is None:
            found = self._tracked(looked_at)
        else:
            found = {frame.index: boxes[frame.index] for frame, *_ in looked_at}
        write_boxes(self._partial / "boxes.json", found)
        counts = [len(kept_faces([face.score for face in faces], self._options.min_score)) for faces in found.values()]
        record = Record(row.path, "ok", None, kind, duration, len(found), has_multiple_faces(counts), whose)
        if record.multiple_faces and self._options.multiple_faces == DROP:
            record.status = MULTIPLE
            notes.insert(0, f"{sum(n > 1 for n in counts)} of the {len(counts)} frames have a second face")
        else:
            record.crops = list(self._crops(looked_at, found, boxes is not None))
            if not record.crops:
                record.status = "no_face"
                where = "the image" if kind == "image" else f"the {len(found)} frames looked at"
                crowd = f" of at most {self._options.drop_frames_above} faces" if any(found.values()) else ""
                # Of an image, the message says how closely it was searched.
                said = kind == "image" and not crowd and faceless
                notes.insert(0, said or f"no face was found in {where}{crowd}")
        record.message = "; ".join(notes) or None
        return record

    def _request(self, **others):
        return Request(size=self._options.size, margin=self._options.margin, whole_pixels=True, **others)

    def _detected(self):
        options = self._options
        if not options.all and options.every_s is None:
            yield self._ask(self._request(frames=1 if options.first else options.frames, in_order=options.first))
            return
        for skip in range(0, options.limits.max_frames, WINDOW):
            part = self._ask(self._request(frames=WINDOW, in_order=True, every_s=options.every_s, skip=skip))
            yield part
            if len(part.frames) + part.frames_damaged < WINDOW:
                return

    def _by_boxes(self, boxes):
        for window in self._windows(boxes):
            part = self._ask(self._request(frames=max(1, len(window)), boxes=tuple(window)))
            yield part
            if len(part.frames) + part.frames_damaged < len(window):
                return

    def _windows(self, boxes):
        """Frames with the faces to cut from them, in pieces that fit into an answer."""
        window, faces = [], 0
        for index in sorted(boxes):
            cut = [[*face.box, face.score] for face in self._kept(boxes[index])]
            if window and (len(window) == WINDOW or faces + len(cut) > MAX_CROPS):
                yield window
                window, faces = [], 0
            window.append([index, cut])
            faces += len(cut)
        yield window

    def _kept(self, faces):
        """Those of a frame's boxes that become crops."""
        options = self._options
        scores = [face.score for face in faces]
        kept = kept_faces(scores, options.min_score, options.max_faces, options.drop_frames_above)
        return [faces[i] for i in kept]

    def _kept_of(self, frame):
        options = self._options
        scores = [face.score for face in frame.faces]
        return kept_faces(scores, options.min_score, options.max_faces, options.drop_frames_above)

    def _tracked(self, looked_at):
        numbers = link_faces(
            [
                [(face.box, thumb) for face, thumb in zip(frame.faces, thumbs, strict=True)]
                for frame, thumbs, _, _ in looked_at
            ]
        )
        return {
            frame.index: [FaceBox(face.box, face.score, track) for face, track in zip(frame.faces, tracks, strict=True)]
            for (frame, *_), tracks in zip(looked_at, numbers, strict=True)
        }

    def _write(self, frame, position, crop):
        quality = [cv2.IMWRITE_JPEG_QUALITY, self._options.quality] if self._options.format == "jpg" else []
        data = cv2.imencode(f".{self._options.format}", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), quality)[1].tobytes()
        (self._partial / "found" / f"{frame}-{position}").write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def _crops(self, looked_at, found, stored):
        """The crops under their final names, by frame and track; yields what `FaceRow` wants to know of each."""
        (self._partial / "crops").mkdir()
        for frame, _, kept, digests in looked_at:
            faces = self._kept(found[frame.index]) if stored else [found[frame.index][i] for i in kept]
            each = sorted(zip(faces, kept, digests, strict=True), key=lambda of: of[0].track)
            for face, position, digest in each:
                name = f"{frame.index:06d}-{face.track}.{self._options.format}"
                os.rename(self._partial / "found" / f"{frame.index}-{position}", self._partial / "crops" / name)
                crop = {"file": name, "frame": frame.index, "time_s": frame.time_s, "track": face.track}
                yield crop | {"box": face.box, "score": face.score, "sha256": digest}
