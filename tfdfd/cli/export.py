"""`tfdfd export` and `tfdfd publish`: a trained network in a format that others run, or in a hub."""

from __future__ import annotations

import os
from argparse import Namespace

from tfdfd.cli.options import add_quiet
from tfdfd.cli.parser import Parser
from tfdfd.cli.text import warn, write_line

_EXPORT = """\
Writes a trained network as a SavedModel (for TensorFlow Hub and TensorFlow Serving; feature_vector/ holds the network
without its head), or for LiteRT, ONNX or OpenVINO. Before the folder appears, its outputs are compared with those of
the Keras model: on noise, on faces of the sample clips, and on the crops of --data. model_card.json records the
difference.

Exit code: 0 written and verified; 1 it could not be written; 2 wrong usage, invalid weights, or different outputs."""

_PUBLISH = """\
Exports a trained network as a SavedModel, verified against the Keras model, to DIR/MODEL/N, with its weights file and
its model card, and adds it with the sha256 of every file to DIR/manifest.json. DIR can be read by TF Serving, offered
by any web server, and named by TFDFD_HUB for hub.KerasLayer("tfdfd/MODEL/N"), tfdfd.HubLayer and
'tfdfd detect --model tfdfd/MODEL'.

MODEL is --name. Without it, MODEL is taken from the handle, or from the model card of a run or file, such as
meso4.s1-meso4. A run is not published under a handle that tfdfd includes unless --name asks for it.

With --to hf://OWNER/NAME or kaggle://OWNER/MODEL[/tensorFlow2/VARIATION], the folder of an upload is prepared instead,
with a card in the format of Hugging Face or Kaggle. Nothing is sent: the Python code that uploads it is printed.

A version is never overwritten. Several processes may publish at once; a killed one leaves the hub as it was.

Exit code: 0 published; 1 it could not be written; 2 wrong usage, invalid weights, or a version that exists."""


def _format(text: str) -> str:
    # LiteRT is the new name of TensorFlow Lite.
    return {"tflite": "litert"}.get(text.lower(), text.lower())


def add_export_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd export`."""
    from tfdfd.publishing.formats import FORMATS

    parser.description = _EXPORT
    parser.add_argument("model", metavar="RUN|HANDLE|FILE", help="folder of 'train', handle, or weights file")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="new folder to write")
    parser.add_argument(
        "--format",
        type=_format,
        choices=tuple(FORMATS),
        default="savedmodel",
        help="default: savedmodel; tflite is the same as litert",
    )
    parser.add_argument("--data", metavar="SET", help="a face set whose crops are compared, too")
    add_quiet(parser)
    parser.set_defaults(run=run_export)


def add_publish_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd publish`."""
    parser.description = _PUBLISH
    parser.add_argument("model", metavar="RUN|HANDLE|FILE", help="folder of 'train', handle or weights file")
    parser.add_argument(
        "--to",
        required=True,
        metavar="DIR|hf://OWNER/NAME|kaggle://OWNER/MODEL",
        help="folder of the hub, or an upload",
    )
    parser.add_argument("--version", type=int, metavar="N", help="1 or more; the highest is the default (upload: 1)")
    parser.add_argument("-o", "--output", metavar="DIR", help="new folder of an upload (default: NAME or MODEL)")
    parser.add_argument("--name", metavar="MODEL", help="default: from the handle, or from the model card of a run")
    parser.add_argument("--kaggle", metavar="DIR", help="also prepare an upload to Kaggle Models, which you then run")
    parser.add_argument("--sign", metavar="KEY.pem", help="sign the version with this Ed25519 private key")
    parser.set_defaults(run=run_publish)


def run_export(arguments: Namespace) -> int:
    from tfdfd.publishing.exporting import export

    if not arguments.quiet:
        warn(f"tfdfd export: writing and verifying {arguments.model} as {arguments.format}")
    card = export(arguments.model, arguments.output, arguments.format, arguments.data)
    for name, difference in card["max_difference"].items():
        write_line(f"{name}: {difference:.1e} from Keras at most")
    files = card["files"].values()
    write_line(f"compared on {card['proof_crops']} crops; {card['tolerance']:g} are allowed")
    write_line(f"files: {len(files)}, {sum(file['bytes'] for file in files):,} bytes: {arguments.output}")
    write_line(f"model card: {os.path.join(arguments.output, 'model_card.json')}")
    return 0


def run_publish(arguments: Namespace) -> int:
    from tfdfd.hub.handles import HubError
    from tfdfd.hub.publish import publish
    from tfdfd.hub.uploads import is_upload, prepare_kaggle, refuse_existing

    if is_upload(arguments.to):
        return _prepare(arguments)
    if arguments.version is None:
        raise HubError("a version in a hub has a number: give --version N, 1 or more.")
    if arguments.output:
        raise HubError("-o is the folder of an upload, with --to hf:// or kaggle://; the folder of a hub is --to DIR.")
    if arguments.kaggle:
        refuse_existing(arguments.kaggle)
    done = publish(arguments.model, arguments.to, arguments.version, arguments.name, sign=arguments.sign)
    size = sum(file.bytes for file in done.version.files)
    write_line(f"{done.handle}: {len(done.version.files)} files, {size / 1e6:.2f} MB in {done.folder}")
    for signature in done.version.signatures:
        write_line(f"signed with the key {signature.key}")
    if done.hides:
        warn(
            f"tfdfd publish: tfdfd includes other weights as {done.hides}, which --model {done.hides} still means; "
            f"--model {done.handle} means the published ones"
        )
    write_line(f"TFDFD_HUB={os.path.abspath(arguments.to)}")
    write_line(f"TFDFD_HUB_SHA256={done.manifest_sha256}")
    if arguments.kaggle:
        _write_lines(prepare_kaggle(done.handle, done.folder, arguments.kaggle))
    return 0


def _prepare(arguments: Namespace) -> int:
    """Prepares an upload, of a version that is published into a temporary hub."""
    from tfdfd.files import temporary_folder
    from tfdfd.hub.handles import HubError
    from tfdfd.hub.publish import publish
    from tfdfd.hub.uploads import address_parts, prepare_upload, refuse_existing

    if arguments.kaggle or arguments.sign:
        raise HubError("--kaggle and --sign go with a hub (--to DIR); a signature is of a version in its manifest.")
    target = refuse_existing(arguments.output or address_parts(arguments.to)[1])
    with temporary_folder() as folder:
        done = publish(arguments.model, folder / "hub", arguments.version or 1, arguments.name)
        code = prepare_upload(arguments.to, done.handle, done.folder, target)
    write_line(f"{done.handle} for {arguments.to}: {target}")
    _write_lines(code)
    return 0


def _write_lines(text: str) -> None:
    for line in text.splitlines():
        write_line(line)
