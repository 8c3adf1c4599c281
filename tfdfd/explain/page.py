"""HTML page of `tfdfd explain`: crops beside their heat maps, and the measured accuracy of the methods.

Like the report of `tfdfd detect` it is one HTML file without scripts or requests, and everything in it is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tfdfd.detect.results import Detection
from tfdfd.explain import (
    ACTIVATION,
    GRADCAM,
    INTEGRATED,
    KERNELS,
    LIME,
    MASK,
    OCCLUSION,
    OF_CROPS,
    Explainer,
    Explanation,
    telling_frame,
)
from tfdfd.explain.measure import verdict_on
from tfdfd.files import write_atomically
from tfdfd.html import as_jpeg, data_uri, environment
from tfdfd.report.page import TEMPLATES
from tfdfd.report.pictures import TRACKS_PER_INPUT
from tfdfd.weights import WeightRecord

PICTURE = 256
# Faces with pictures; further faces are only counted.
MOST_SUBJECTS = 100
TITLES = {
    LIME: "LIME",
    OCCLUSION: "Occlusion",
    GRADCAM: "Grad-CAM",
    INTEGRATED: "Integrated gradients",
    MASK: "Mask head",
    ACTIVATION: "Activation maximization",
    KERNELS: "Kernels of the first layer",
}
READINGS = {
    LIME: "The crop is divided into segments of similar color, random segments are hidden in black, and a linear model "
    "is fitted to the scores. The segments with the largest weights are shown.",
    OCCLUSION: "A square in the crop’s mean color slides over the face. Red marks where hiding it lowers the score.",
    GRADCAM: "The last spatial maps of the network, weighted by their gradients. The map is as coarse as its grid.",
    INTEGRATED: "The gradients of the score on the path from a black picture to this one, times the pixels; blurred.",
    MASK: "A second output of the network, trained on the masks of blended faces: the estimated probability that a "
    "place was altered. Red only, and not scaled.",
    ACTIVATION: "Pictures, found by gradient ascent, that maximally activate a neuron of the last hidden layer.",
    KERNELS: "The weights of the first convolutions; mid-gray is 0.",
}
LIMITS = (
    "A heat map shows what influences this model’s score. It does not show where a face was altered, and it does not "
    "prove that it was. The map of a mask head is an estimate of where, and no proof either.",
    "A map of a wrong score looks as convincing as a map of a correct one.",
    "Each map but a mask head’s is scaled by its own maximum. A map of a score that hardly changes is pure noise.",
)
_RED, _GREEN = np.float32([214, 39, 40]), np.float32([34, 160, 60])  # type: ignore[arg-type]
_OPAQUE = 0.65


@dataclass(frozen=True)
class Subject:
    """One face and its explanations.

    Attributes:
        path: path of the input, printable.
        where: the face in it, such as `face 2 at 1.40 s`.
        fake_probability: P(fake) of the explained crop.
        explanations: explanations of this crop, one per method.
    """

    path: str
    where: str
    fake_probability: float
    explanations: Sequence[Explanation]


def overlay(explanation: Explanation) -> np.ndarray:
    """The crop overlaid with its map, RGB uint8: red toward fake, green toward real; LIME: strongest features."""
    heat = explanation.heat
    if explanation.segments is not None:
        shown = np.zeros(int(explanation.segments.max()) + 1, np.float32)
        for segment, weight in explanation.features:
            shown[segment] = weight
        heat = np.sign(shown)[explanation.segments] * 0.7
    elif explanation.method != MASK:
        # The maximum would let a single outlier fade all other pixels.
        heat = heat / max(float(np.quantile(np.abs(heat), 0.99)), 1e-12)
    strength = np.clip(np.abs(heat), 0, 1)[..., None] * _OPAQUE
    color = np.where(heat[..., None] > 0, _RED, _GREEN)
    picture = (1 - strength) * explanation.crop + strength * color
    if explanation.segments is not None:
        picture[_borders(explanation.segments, [segment for segment, _ in explanation.features])] = 255
    return np.clip(picture.round(), 0, 255).astype(np.uint8)


def explain_tracks(detection: Detection, explainer: Explainer, method: str) -> list[str]:
    """Adds the heat map of each face's most telling frame to a detection, for the report of `tfdfd detect`.

    Only faces that the report shows are explained. The title states whether the method did better than an ellipse.

    Returns:
        Messages about faces that could not be explained.
    """
    messages = []
    record = explainer.record
    colors = "red is estimated as altered" if method == MASK else "red points toward fake, green toward real"
    title = f"{TITLES[method]}: {colors}. {verdict_on(method, record.handle, record.sha256, numbers=False)}"
    for track in sorted(detection.faces, key=lambda track: -track.fake_probability)[:TRACKS_PER_INPUT]:
        frame = telling_frame(track, record.threshold)
        if frame is None:
            continue
        try:
            frame.explained[title] = overlay(explainer.explain(frame.crop, method))  # type: ignore[arg-type]
        except ValueError as error:
            messages.append(str(error))
    return messages


def kernel_sheet(kernels: np.ndarray) -> np.ndarray:
    """Kernels `(height, width, channels, filters)` as a grid, RGB uint8; other than three channels are averaged."""
    if kernels.shape[2] != 3:
        kernels = np.repeat(kernels.mean(axis=2, keepdims=True), 3, axis=2)
    height, width, _, filters = kernels.shape
    tiles = 0.5 + kernels / (2 * max(float(np.abs(kernels).max()), 1e-12))
    columns = int(np.ceil(np.sqrt(filters)))
    rows = -(-filters // columns)
    sheet = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, 3))
    for number in range(filters):
        y, x = number // columns * (height + 1) + 1, number % columns * (width + 1) + 1
        sheet[y : y + height, x : x + width] = tiles[..., number]
    scale = max(1, PICTURE // max(sheet.shape[:2]))
    return np.kron(np.round(255 * sheet), np.ones((scale, scale, 1))).astype(np.uint8)


def render_page(
    subjects: Sequence[Subject],
    pictures: Sequence[tuple[str, object]],
    record: WeightRecord,
    methods: Sequence[str],
    *,
    failed: Sequence[tuple[str, str]] = (),
    settings: Mapping[str, object] | None = None,
) -> str:
    """One self-contained HTML page.

    Args:
        subjects: the explained faces.
        pictures: what the network shows without an input: a method of `OF_NETWORKS` with `Maximized` of
            `tfdfd.explain.gradients`, or with kernels by layer.
        record: record of the weights.
        methods: by name.
        failed: inputs without a face that could be explained: path and message.
        settings: to list at the end.
    """
    verdicts, short = (
        {name: verdict_on(name, record.handle, record.sha256, numbers) for name in methods if name in OF_CROPS}
        for numbers in (True, False)
    )
    card = record.card or {}
    limits = card.get("limits") or []
    return (
        environment(Path(__file__).parent, TEMPLATES)
        .get_template("explanation.html.j2")
        .render(
            subjects=[_shown(subject, short) for subject in subjects[:MOST_SUBJECTS]],
            left_out=max(0, len(subjects) - MOST_SUBJECTS),
            networks=[{"title": TITLES[method], "groups": _groups(method, made)} for method, made in pictures],
            methods=[
                {"title": TITLES[name], "text": READINGS[name], "verdict": verdicts.get(name)} for name in methods
            ],
            has_maps=bool(subjects),
            failed=failed,
            model={
                "Model": record.handle,
                "SHA-256 of the weights": record.sha256,
                "Threshold": f"{record.threshold:g}",
            },
            limits=[*(LIMITS if subjects else ()), *([limits] if isinstance(limits, str) else limits)],
            settings={str(key).capitalize(): str(value) for key, value in (settings or {}).items()},
        )
    )


def write_page(path: str | os.PathLike, *arguments: Any, **options: Any) -> None:
    """Writes the page of `render_page` to `path`, atomically."""
    write_atomically(path, render_page(*arguments, **options))


def _shown(subject: Subject, verdicts: Any) -> dict[str, Any]:
    figures: list[dict[str, Any]] = [
        {"uri": _uri(subject.explanations[0].crop), "title": "Crop", "notes": {}, "verdict": None}
    ]
    for one in subject.explanations:
        figures.append(
            {
                "uri": _uri(overlay(one)),
                "title": TITLES[one.method],
                "notes": {"Seconds": f"{one.seconds:.1f}", **one.notes},
                "verdict": verdicts[one.method],
            }
        )
    return {
        "path": subject.path,
        "where": subject.where,
        "probability": subject.fake_probability,
        "figures": figures,
    }


def _groups(method: str, made: Any) -> list[dict[str, Any]]:
    if method == KERNELS:
        figures = [
            {"uri": _uri(kernel_sheet(kernels), 2 * PICTURE), "title": name, "text": _shape(kernels)}
            for name, kernels in made.items()
        ]
        return [{"title": None, "figures": figures}]
    groups = []
    for title, sign in (("Neurons toward fake", 1), ("Neurons toward real", -1)):
        figures = [
            {
                "uri": _uri(np.round(255 * one.image).astype(np.uint8)),
                "title": f"Neuron {one.neuron}, weight {one.weight:+.3f}",
                "text": f"activation {one.start:.3g} to {one.end:.3g}",
            }
            for one in made
            if one.weight * sign > 0
        ]
        if figures:
            groups.append({"title": title, "figures": figures})
    return groups


def _uri(picture: np.ndarray, size: int = PICTURE) -> str:
    return data_uri(as_jpeg(picture, size))


def _shape(kernels: np.ndarray) -> str:
    height, width, channels, filters = kernels.shape
    return f"{filters} kernels of {height} x {width} x {channels}"


def _borders(segments: np.ndarray, chosen: Any) -> np.ndarray:
    """Pixels on the borders of the chosen segments."""
    inside = np.where(np.isin(segments, chosen), segments + 1, 0).astype(np.int32)
    higher = cv2.dilate(inside.astype(np.float32), np.ones((2, 2), np.uint8)) != inside
    lower = cv2.erode(inside.astype(np.float32), np.ones((2, 2), np.uint8)) != inside
    return higher | lower
