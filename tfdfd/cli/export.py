"""`tfdfd export`: a trained network in a format that others run."""

from __future__ import annotations

import os
import sys

from tfdfd.publishing.formats import FORMATS

_DESCRIPTION = """\
Writes a trained network as a SavedModel (for tensorflow_hub and TensorFlow Serving; with the network without its head
in feature_vector/), or for LiteRT, ONNX or OpenVINO. Its answers are compared with the Keras model's before the folder
appears: on noise, on faces of the carried clips, and on the crops of --data. The difference stands in model_card.json.

Exit code: 0 written and proved; 1 it could not be written; 2 wrong usage, weights of no use, or other answers."""

# LiteRT is the later name of TensorFlow Lite.
_LATER_NAMES = {"tflite": "litert"}


def _format(text):
    return _LATER_NAMES.get(text.lower(), text.lower())


def add_parser(verbs) -> None:
    parser = verbs.add_parser("export", help="a trained network for TF Hub, TF Serving, LiteRT, ONNX or OpenVINO",
                              description=_DESCRIPTION)  # fmt: skip
    parser.add_argument("model", metavar="RUN|HANDLE|FILE", help="folder of 'train', handle, or weights file")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write; a new one")
    parser.add_argument(
        "--format",
        type=_format,
        choices=tuple(FORMATS),
        default="savedmodel",
        help="default: savedmodel; tflite is litert",
    )
    parser.add_argument("--data", metavar="SET", help="a face set whose crops are compared, too")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from tfdfd.publishing.exporting import export

    if not arguments.quiet:
        sys.stderr.write(f"tfdfd export: {arguments.model} as {arguments.format}, and the proof\n")
    card = export(arguments.model, arguments.output, arguments.format, arguments.data)
    for line in summary(card, arguments.output):
        print(line)
    return 0


def summary(card: dict, folder: str) -> list[str]:
    """What a person wants to know at the end."""
    files = card["files"]
    lines = [f"{name}: {apart:.1e} from Keras at most" for name, apart in card["max_difference"].items()]
    return [
        *lines,
        f"compared on {card['proof_crops']} crops; {card['tolerance']:g} are allowed",
        f"files: {len(files)}, of {sum(file['bytes'] for file in files.values()):,} bytes: {folder}",
        f"model card: {os.path.join(folder, 'model_card.json')}",
    ]
