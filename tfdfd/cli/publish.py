"""`tfdfd publish`: a trained network into a hub, from which TensorFlow Hub, Keras and TF Serving take it."""

from __future__ import annotations

import os
import sys

_DESCRIPTION = """\
Exports a trained network as a SavedModel, proved equal to the Keras model, to DIR/MODEL/N, with the file of its weights
and its model card, and then adds it with the sha256 of every file to DIR/manifest.json. DIR is what TF Serving reads,
what any web server can offer, and what TFDFD_HUB names for hub.KerasLayer("tfdfd/MODEL/N"), tfdfd.HubLayer and
'tfdfd detect --model tfdfd/MODEL'.

MODEL is --name. Without it, it is the handle's, or the one in the model card of a run or file, such as
meso4.s1-meso4: a run is not published under the handle of weights that tfdfd carries unless --name says so.

A version is never written over. Several may publish at once; one that is killed leaves the hub as it was.

Exit code: 0 published; 1 it could not be written; 2 wrong usage, weights of no use, or a version that is taken."""


def add_parser(verbs) -> None:
    parser = verbs.add_parser("publish", help="put a trained network into a hub", description=_DESCRIPTION)
    parser.add_argument("model", metavar="RUN|HANDLE|FILE", help="folder of 'tfdfd train', handle or weights file")
    parser.add_argument("--to", required=True, metavar="DIR", help="the hub's folder, made if it is not there")
    parser.add_argument("--version", required=True, type=int, metavar="N", help="from 1 on; the highest is the default")
    parser.add_argument(
        "--name", metavar="MODEL", help="default: that of the handle, or the one in the model card of a run"
    )
    parser.add_argument("--kaggle", metavar="DIR", help="also prepare an upload to Kaggle Models, which you then run")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from tfdfd.hub.handles import HubError
    from tfdfd.hub.kaggle import prepare_kaggle
    from tfdfd.hub.publish import publish

    if arguments.kaggle and os.path.lexists(arguments.kaggle):
        raise HubError(f"{arguments.kaggle} is there already; give a new folder for the upload to Kaggle.")
    done = publish(arguments.model, arguments.to, arguments.version, arguments.name)
    size = sum(file.bytes for file in done.version.files)
    print(f"{done.handle}: {len(done.version.files)} files, {size / 1e6:.2f} MB in {done.folder}")
    if done.hides:
        sys.stderr.write(
            f"tfdfd publish: tfdfd carries other weights as {done.hides}, which --model {done.hides} still means; "
            f"--model {done.handle} means what was published\n"
        )
    print(f"TFDFD_HUB={os.path.abspath(arguments.to)}")
    print(f"TFDFD_HUB_SHA256={done.manifest_sha256}")
    if arguments.kaggle:
        print(prepare_kaggle(done.handle, done.folder, arguments.kaggle))
    return 0
