"""The work on one video of a face set, for whichever process does it: on this machine or on another that sees the same
files. It is a function of its job and of files that no longer change: done twice, it leaves the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import cv2

from tfdfd.data.boxes import read_boxes
from tfdfd.data.face_options import FaceOptions
from tfdfd.data.face_record import DETECTED, OF_ORIGINAL, READ, STORED, Record, read_record
from tfdfd.data.tables import IndexRow
from tfdfd.data.video_cut import VideoCut
from tfdfd.extract.pool import FaceExtractor
from tfdfd.faces import NO_DETECTOR
from tfdfd.files import sync_folder, write_atomically
from tfdfd.media import MediaError
from tfdfd.media.inputs import Input
from tfdfd.version import __version__

# What of this machine decides bytes.
VERSIONS = {"tfdfd": __version__, "opencv": cv2.__version__}


@dataclass(frozen=True)
class VideoJob:
    """One video or image to be done.

    Attributes:
        row: of the index.
        name: of its files in the face set, without suffix.
        original: name of the original whose boxes it is cut by, where that has some.
    """

    row: IndexRow
    name: str
    original: str | None = None


@dataclass(frozen=True)
class FaceWork:
    """How the videos of one face set are done; may be pickled.

    Attributes:
        options: how they are cut.
        root: the folder that the paths of the index are relative to.
        folder: of the face set.
        stored: another face set whose boxes are used; None: faces are detected.
        versions: of the libraries of whoever began it.
    """

    options: FaceOptions
    root: Path
    folder: Path
    stored: Path | None
    versions: dict[str, str]

    @property
    def partial(self) -> Path:
        """Where that lies which is not whole."""
        return self.folder / ".partial"

    def extractor(self, workers: int) -> FaceExtractor:
        """What decodes and detects for `do`."""
        detects = (NO_DETECTOR, {}) if self.stored else (self.options.detector, self.options.detector_options)
        return FaceExtractor(*detects, self.options.limits, workers)

    def check(self) -> None:
        """Makes sure that this machine makes the same as the one where the work was begun.

        Raises:
            RuntimeError: it has other versions, or does not see the folders.
        """
        host = socket.gethostname()
        if self.versions != VERSIONS:
            raise RuntimeError(
                f"the machine {host} has {VERSIONS}, the one where this was begun has {self.versions}; the bytes would "
                "differ. Install the same versions on all of them."
            )
        for folder in filter(None, (self.partial, self.root, self.stored)):
            if not folder.is_dir():
                raise RuntimeError(
                    f"the machine {host} has no folder {folder}; the data set and the face set must be on a file "
                    "system that all machines see in the same place."
                )

    def place(self, part: str, name: str) -> Path:
        """The file of a video in `records` or `boxes`."""
        return self.folder / part / f"{name}.json"

    def crops_place(self, name: str) -> Path:
        """The folder of a video's crops; of a mirrored tree, the one crop."""
        return self.folder / "crops" / (f"{name}.{self.options.format}" if self.options.mirror else name)

    def record(self, name: str) -> Record | None:
        """The record of a video that is done, else None."""
        try:
            record = read_record(self.place("records", name))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        whole = not record.crops or self.crops_place(name).exists()
        return record if whole and (record.boxes is None or self.place("boxes", name).exists()) else None

    def do(self, job: VideoJob, extractor: FaceExtractor) -> Record:
        """Everything for one video that is not done yet.

        Raises:
            ValueError: the stored boxes or the detector are of no use.
            OSError: the folder cannot be written.
        """
        done = self.record(job.name)
        if done is not None:
            return done
        partial = Path(tempfile.mkdtemp(dir=self.partial))
        try:
            (partial / "found").mkdir()
            boxes, whose, refused = self._known_boxes(job)
            cut = VideoCut(self.options, partial, self._ask(job.row, extractor))
            return self._publish(job, refused or cut.run(job.row, boxes, whose), partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def give_up(self, job: VideoJob, status: str, message: str) -> Record:
        """In place of `do` for a video that ends every process that is at it."""
        partial = Path(tempfile.mkdtemp(dir=self.partial))
        try:
            return self._publish(job, Record(job.row.path, status, message, job.row.kind), partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _known_boxes(self, job):
        """Boxes to cut by (None: detect), whose they are, and a record in their place where there can be none."""
        if self.stored:
            place = self.stored / "records" / f"{job.name}.json"
            try:
                before = read_record(place)
            except (OSError, ValueError, TypeError) as error:
                raise ValueError(f"the face set {self.stored} lacks a sound {place}: {error}.") from error
            if before.status not in READ:
                return None, STORED, Record(job.row.path, before.status, before.message, before.kind)
            return read_boxes(self.stored / "boxes" / f"{job.name}.json"), STORED, None
        if job.original is not None and self.place("boxes", job.original).exists():
            boxes = read_boxes(self.place("boxes", job.original))
            if any(boxes.values()):
                return boxes, OF_ORIGINAL, None
        return None, DETECTED, None

    def _ask(self, row, extractor):
        """A function from a request to the outcome of this video."""
        error = None
        pure = PurePosixPath(row.path)
        if pure.is_absolute() or ".." in pure.parts:
            error = MediaError("unsupported", "the path leads out of the data set's folder")
        item = Input(os.path.join(self.root, row.path), row.kind, error)

        def ask(request):
            answer = extractor.extract_one(item, request)
            # Somebody may have ended the process: only a file that does so twice is itself to blame.
            return extractor.extract_one(item, request) if answer.process_died else answer

        return ask

    def _publish(self, job, record, partial):
        """Crops and boxes to their places, then the record, which makes the video done."""
        done = self.record(job.name)
        if done is not None:
            # By a machine that was taken for lost: the bytes are the same, and nobody must see them go.
            return done
        crops = self.crops_place(job.name)
        if crops.is_dir():
            shutil.rmtree(crops)
        if record.crops:
            # After a power cut a record must not tell of crops that never reached the disk.
            sync_folder(partial / "crops")
            crops.parent.mkdir(parents=True, exist_ok=True)
            made = [partial / "crops" / PurePosixPath(crop["file"]) for crop in record.crops]
            os.replace(made[0] if self.options.mirror else partial / "crops", crops)
            for crop in record.crops:
                name = crops if self.options.mirror else crops / crop["file"]
                crop["file"] = name.relative_to(self.folder).as_posix()
        if record.boxes is not None:
            self.place("boxes", job.name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial / "boxes.json", self.place("boxes", job.name))
        self.place("records", job.name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(partial / "record.json", json.dumps(asdict(record), indent=1) + "\n")
        os.replace(partial / "record.json", self.place("records", job.name))
        return record
