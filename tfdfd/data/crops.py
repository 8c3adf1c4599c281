"""Face crops: the table or folder that lists them, their pixels, and clips of several crops."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data.tables import FAKE, ORIGINAL, OTHER_FOLDERS, REAL, FaceRow, other_folders, read_table
from tfdfd.faces.crop import MARGIN, equal_parts, resize_crop, square_around
from tfdfd.files import read_regular, sha256
from tfdfd.media import Limits
from tfdfd.media.formats import MAX_SCANS, picture_work
from tfdfd.text import did_you_mean, printable_path
from tfdfd.threads import map_in_threads

TABLE = "faces.csv"
# First frame that the program of S2's author takes of a video.
FIRST_FRAME = 10
ENDINGS = (".png", ".jpg", ".jpeg")
_NO_BOX = (0, 0, 0, 0)
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_TRAILER = 4096  # bytes that some cameras write after the end of a picture
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Faces:
    """A set of face crops.

    Attributes:
        root: the folder that the rows' files are relative to.
        rows: a row per crop.
    """

    root: Path
    rows: tuple[FaceRow, ...]

    def path(self, position: int) -> str:
        """The file of one row; see `crop_path`."""
        return crop_path(self.root, self.rows[position].file)

    def read(self, position: int) -> bytes:
        """The bytes of one row's file, checked against the digest in the table.

        Raises:
            OSError: it cannot be read.
            ValueError: the digest differs.
        """
        path, digest = self.path(position), self.rows[position].sha256
        data = read_regular(path, MAX_BYTES)
        if digest and hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{path} has other bytes than its table says (sha256 {digest}); extract it again.")
        return data

    def with_digests(self) -> Faces:
        """The same crops with the digest of each file, computed where the table has none.

        The digest of an unreadable file stays None: the code that needs its pixels raises the error.
        """
        missing = [position for position, row in enumerate(self.rows) if not row.sha256]
        if not missing:
            return self
        rows = list(self.rows)
        for position, digest in zip(missing, map_in_threads(self._digest, missing), strict=True):
            rows[position] = replace(rows[position], sha256=digest)
        return Faces(self.root, tuple(rows))

    def _digest(self, position: int) -> str | None:
        try:
            return sha256(self.path(position))
        except OSError:
            return None


def crop_path(root: str | os.PathLike, file: str) -> str:
    """The path of a crop, which must lie in the folder of its table or in one of `other_folders()`.

    A table from somebody else must not have other files of this machine read, packed or shown.

    Raises:
        ValueError: an absolute path, "..", or a link leads elsewhere.
    """
    path = os.path.join(root, file)
    if _stays_below(root, file):
        return path
    target = os.path.realpath(path)
    for folder in (os.fspath(root), *other_folders()):
        if target.startswith(os.path.join(os.path.realpath(folder), "")):
            return path
    raise ValueError(
        f"{printable_path(file)!r} of the table in {printable_path(root)} leads out of that folder, to "
        f"{printable_path(target)}; it was not read. Copy the crop into the folder, or, if you trust the table, name "
        f"the folder of its crops: {OTHER_FOLDERS}=FOLDER."
    )


def _stays_below(root: str | os.PathLike, file: str) -> bool:
    """Whether a path is seen to stay in the folder without resolving both: relative, without ".." and links."""
    if os.sep != "/" or os.path.isabs(file) or os.pardir in file or os.path.basename(file) in ("", os.curdir):
        return False
    ends = [end for end, letter in enumerate(file) if letter == "/"]
    return not any(os.path.islink(os.path.join(root, file[:end])) for end in (*ends, len(file)))


def faces_of(source: str | os.PathLike | Faces, split: str | None = None) -> Faces:
    """Lists the crops of a face set; no image is opened.

    Args:
        source: a `faces.csv`, a folder that holds one, a folder with `real/` and `fake/` (any depth, PNG and JPEG by
            name, sorted; a folder within `fake/` names the method), or `Faces`.
        split: only the rows of this split; None for all.

    Raises:
        ValueError: no face set, or no crop of that split.
    """
    faces = source if isinstance(source, Faces) else _read_faces(Path(source))
    if split is not None:
        chosen = tuple(row for row in faces.rows if row.split == split)
        if not chosen and faces.rows:
            counts = Counter(row.split or "without a split" for row in faces.rows)
            there = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            others = _tables_with(faces.root, split)
            more = f" {' and '.join(map(str, others))} has some: give that table." if others else ""
            raise ValueError(
                f"{faces.root} has no crop of split {split!r} (its crops: {there}); make splits with 'tfdfd split', or "
                f"take all crops: --split none of 'tfdfd evaluate', split=None in Python.{more}"
            )
        faces = replace(faces, rows=chosen)
    if not faces.rows:
        raise ValueError(f"{faces.root} has no crops: its table is empty, or no name ends in {', '.join(ENDINGS)}.")
    return faces


def table_file(path: str | os.PathLike) -> Path:
    """The table of a face set: a file as it is, or the `faces.csv` of a folder.

    Raises:
        ValueError: the folder has none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if not (path / TABLE).is_file():
        tables = sorted(file.name for file in path.glob("*.csv"))
        there = f"it has {', '.join(tables)}: give one of them" if tables else "give a table"
        raise ValueError(f"the folder {path} has no {TABLE}; {there}.")
    return path / TABLE


def named_set(argument: str) -> tuple[str | None, str]:
    """`(name, path)` of `NAME=PATH`, the name None without one; an existing path is not split at its "="."""
    name, equals, path = argument.partition("=")
    if equals and name and path and not os.path.exists(argument) and not set(name) & set("/\\"):
        return name, path
    return None, argument


def equally_spaced(rows: Sequence[FaceRow], frames: int | None, first_frame: int = FIRST_FRAME) -> list[FaceRow]:
    """At most `frames` equally spaced crops of each face track of each video, in the rows' order.

    S2 validates on 7 frames of a video and tests on 12, which this takes from one extraction.

    Args:
        rows: crops of videos.
        frames: crops of a track, at least 1; None for all.
        first_frame: number of the first frame that counts. A video with fewer than `frames` crops from there on is
            taken from its start.

    Raises:
        ValueError: `frames` is below 1.
    """
    if frames is None:
        return list(rows)
    if frames < 1:
        raise ValueError(f"frames must be at least 1; received {frames}.")
    tracks = defaultdict(list)
    for position, row in enumerate(rows):
        tracks[row.dataset, row.video, row.track].append(position)
    kept = []
    for positions in tracks.values():
        positions.sort(key=lambda position: rows[position].frame)
        late = [position for position in positions if rows[position].frame >= first_frame]
        chosen = late if len(late) >= frames else positions
        numbers = np.unique(np.linspace(0, len(chosen) - 1, min(frames, len(chosen))).round().astype(int))
        kept += [chosen[number] for number in numbers]
    return [rows[position] for position in sorted(kept)]


def read_pixels(path: str | os.PathLike) -> np.ndarray:
    """Reads and decodes one file: RGB uint8 `(height, width, 3)`, upright.

    Raises:
        ValueError: it cannot be read or decoded; names the file.
    """
    return decode_pixels(read_bytes(path), path)


def read_bytes(path: str | os.PathLike) -> bytes:
    """The bytes of a crop's file.

    Raises:
        ValueError: it cannot be read; names it.
    """
    try:
        return read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ValueError(f"{printable_path(path)} cannot be read: {error.strerror}") from error


def check_picture(data: bytes, name: str | os.PathLike) -> None:
    """Raises `ValueError` unless the bytes begin as a PNG or JPEG whose headers state pixels within the limits."""
    work, most = picture_work(data), Limits().max_pixels
    if work is None:
        raise ValueError(f"{printable_path(name)} cannot be decoded as PNG or JPEG ({len(data):,} bytes).")
    pixels, scans, _ = work
    if pixels > most or scans > MAX_SCANS:
        raise ValueError(
            f"{printable_path(name)} has {pixels:,} pixels in {'over ' * (scans > MAX_SCANS)}{min(scans, MAX_SCANS)} "
            f"scans; a crop has at most {most:,} and {MAX_SCANS}."
        )


def decode_pixels(data: bytes, name: str | os.PathLike) -> np.ndarray:
    """Decodes the bytes of a PNG or JPEG: RGB uint8 `(height, width, 3)`, upright.

    Raises:
        ValueError: another format, too many pixels, or truncated data; names `name`.
    """
    check_picture(data, name)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error:
        pixels = None
    # OpenCV fills the missing part of a truncated JPEG with gray and reports no error.
    truncated = data[:2] == _JPEG and _JPEG_END not in data[-_TRAILER:]
    if pixels is None or truncated:
        raise ValueError(f"{printable_path(name)} cannot be decoded as PNG or JPEG ({len(data):,} bytes).")
    return pixels


def square_crop(
    image: np.ndarray,
    box: Sequence[float],
    margin: float = MARGIN,
    shift: Sequence[float] = (0.0, 0.0),
    size: int = 256,
) -> np.ndarray:
    """Crops a face as it is cropped for a network: the box is enlarged, squared, cut out and resized.

    Args:
        image: RGB uint8 `(height, width, 3)`, or a mask, float32 `(height, width)`.
        box: `(x, y, width, height)` of the face in pixels; it may extend beyond the picture.
        margin: side of the square over the longer side of the box.
        shift: offset of the square's center, `(x, y)` in longer sides of the box.
        size: side of the result in pixels.

    Returns:
        The square, `(size, size)` or `(size, size, 3)`, of the input's dtype. The picture is mirrored beyond its edges.

    Raises:
        ValueError: a size that is not positive, or a box outside the image.
    """
    x, y, width, height = (float(value) for value in box)
    if min(width, height, margin, size) <= 0:
        raise ValueError(f"box {tuple(box)}, margin {margin}, size {size}; width, height, margin and size must be > 0")
    longer = max(width, height)
    left, top, side = square_around((x + shift[0] * longer, y + shift[1] * longer, width, height), margin)
    if left >= image.shape[1] or top >= image.shape[0] or left + side <= 0 or top + side <= 0:
        raise ValueError(f"box {tuple(box)} lies outside the image of {image.shape[1]}x{image.shape[0]} pixels")
    strip = image[_mirror_positions(np.arange(top, top + side), image.shape[0])]
    beyond = max(0, -left), max(0, left + side - image.shape[1])
    strip = cv2.copyMakeBorder(strip, 0, 0, *beyond, cv2.BORDER_REFLECT_101) if any(beyond) else strip
    left = max(0, left)
    return resize_crop(strip[:, left : left + side], size)


def crop_alike(
    images: Sequence[np.ndarray],
    box: Sequence[float],
    rng: np.random.Generator,
    margin: tuple[float, float] = (1.0, 1.5),
    wander: float = 0.06,
    size: int = 256,
) -> list[np.ndarray]:
    """The same randomly placed and mirrored `square_crop` of several arrays of one face (real, fake, mask).

    Args:
        images, box, size: see `square_crop`.
        rng: draws margin, shift and mirroring.
        margin: range of the margin.
        wander: largest shift of the center, in longer sides of the box.
    """
    margin, shift = rng.uniform(*margin), rng.uniform(-wander, wander, 2)  # type: ignore[assignment]
    crops = [square_crop(image, box, margin, shift, size) for image in images]  # type: ignore[arg-type]
    if rng.random() < 0.5:
        crops = [cv2.flip(crop, 1) for crop in crops]
    return crops


@dataclass(frozen=True, eq=False)
class Clip:
    """One face of one video.

    Attributes:
        row: row of the first crop; video, label and split hold for all.
        positions: positions of all its crops in the rows, int64, in temporal order.
    """

    row: FaceRow
    positions: np.ndarray

    @property
    def label(self) -> int:
        """0 real, 1 fake."""
        return self.row.label

    def frames(self, count: int, offset: float = 0.5) -> np.ndarray:
        """Positions of `count` equally spaced crops; see `tfdfd.faces.crop.equal_parts`."""
        return self.positions[equal_parts(len(self.positions), count, offset)]


def clips_of(rows: Sequence[FaceRow], frames: int) -> tuple[list[Clip], Counter]:
    """The clips of all videos, in the order in which videos first occur, and counts.

    Of a video with several faces, the one with most crops is taken (the first track of equals). A video in which that
    face has a single crop gives no clip: it shows no motion.

    Args:
        rows: crops, in any order.
        frames: frames of a clip; only for the count of `padded`.

    Returns:
        Clips, and the number of videos of each kind: `clips` (all that are taken), `padded` (those of them with fewer
        crops than `frames`, some of which are repeated), `left_out` (with a single crop).
    """
    tracks: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for position, row in enumerate(rows):
        tracks[row.dataset, row.video][row.track].append(position)
    clips, counts = [], Counter(clips=0, padded=0, left_out=0)
    for of_video in tracks.values():
        longest = min(of_video, key=lambda track: (-len(of_video[track]), track))
        positions = sorted(of_video[longest], key=lambda position: (rows[position].frame, rows[position].time_s))
        if len(positions) < 2:
            counts["left_out"] += 1
            continue
        counts["clips"] += 1
        counts["padded"] += len(positions) < frames
        clips.append(Clip(rows[positions[0]], np.array(positions, np.int64)))
    return clips, counts


def _read_faces(path: Path) -> Faces:
    table = path / TABLE if path.is_dir() else path
    if table.is_file():
        faces = Faces(table.parent, tuple(read_table(table, FaceRow)))
        for row in faces.rows:
            # Links are found when a file is opened; all else is refused before any work.
            if os.path.isabs(row.file) or ".." in row.file.replace("\\", "/").split("/"):
                crop_path(faces.root, row.file)
        return faces
    if not any((path / name).is_dir() for name in ("real", "fake")):
        raise ValueError(
            f"{path} holds no face crops; expected a {TABLE}, a folder with one, or a folder with real/ and fake/."
            f"{'' if path.exists() else _missing_path_hint(path)}"
        )
    rows = []
    for folder, label in (("real", REAL), ("fake", FAKE)):
        files = (file for file in (path / folder).rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        for name in sorted(file.relative_to(path).as_posix() for file in files):
            inner = name.split("/")[1:-1]
            method = (inner[0] if inner else folder) if label == FAKE else ORIGINAL
            rows.append(FaceRow(name, "folder", name, 0, 0.0, 0, _NO_BOX, None, label, method, ()))
    return Faces(path, tuple(rows))


def _missing_path_hint(path: Path) -> str:
    parent = path.absolute().parent
    hint = None
    with contextlib.suppress(OSError):
        hint = did_you_mean(path.name, os.listdir(parent))
    return f" There is no {path.name!r} in {parent}{'; ' + hint if hint else '.'}"


def _tables_with(folder: Path, split: str) -> list[Path]:
    """Other tables of crops in a folder that have the split."""
    tables = []
    for file in sorted(folder.glob("*.csv")):
        with contextlib.suppress(ValueError):
            if any(row.split == split for row in read_table(file, FaceRow)):
                tables.append(file)
    return tables


def _mirror_positions(positions: np.ndarray, length: int) -> np.ndarray:
    """Positions beyond [0, length) mirrored into it about the border pixels, repeatedly if needed."""
    period = max(2 * (length - 1), 1)
    positions = np.abs(positions) % period
    return np.where(positions >= length, period - positions, positions)
