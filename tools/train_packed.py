"""Trains a network on packed face crops with JAX: real deepfakes and blended faces, for an hour of one GPU.

    python -m tools.train_packed PACK.npz [PACK-2.npz …] NETWORK -o RUN --set weights=imagenet:FILE --set steps=4000

Packs are made by `python -m tools.packed.pack`. Nothing besides NumPy, Pillow, safetensors, Keras and JAX is needed. On
a CPU, `--set engine=torch` computes the network with PyTorch, many times as fast.

A batch holds pairs of a genuine face and a real deepfake of the same target video, methods in equal shares, and pairs
of a genuine face and a blend of it, sources in fixed shares. Blending and degradation run on the device. The moving
average of the weights after the last step is kept; validation chooses nothing.

RUN holds:

    state.npz            saved every two minutes; the same command resumes from it, to the bit
    weights.safetensors  averaged weights of the network, after the last step
    mask_head.npz        averaged weights of the head that predicts where a blend lies
    log.json             settings, log and validation figures

With `--set weights=packed:RUN`, it begins with the averaged weights of another packed run, its mask head too. With
`--teacher RUN`, the network imitates the averaged weights of another packed run on each batch (`teacher_weight`).
`python -m tools.packed.finish` makes a calibrated run of it. `tools.packed.settings.Settings` lists the settings.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import fields
from pathlib import Path

if __name__ == "__main__":
    # Before Keras is imported. Whoever imports this module chooses the backend: children inherit the variable.
    os.environ.setdefault("KERAS_BACKEND", "jax")

from tfdfd.files import locked, write_atomically
from tools.packed.dataset import Pack
from tools.packed.settings import Settings
from tools.packed.trainer import Trainer, load_teacher

LOG = "log.json"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line. An error is one line, with exit status 1."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        prog="python -m tools.train_packed",
        epilog="settings: " + ", ".join(f"{each.name}={each.default}" for each in fields(Settings)[2:]),
    )
    parser.add_argument("packs", nargs="+", type=Path, metavar="PACK.npz", help="all parts of one pack")
    parser.add_argument("network", metavar="NETWORK", help="name of a network, such as efficientnet_lite0")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting, such as steps=4000 or arguments.alpha=0.5 (an argument of the network)",
    )
    parser.add_argument("--teacher", type=Path, metavar="RUN", help="packed run of the same picture size to imitate")
    parser.add_argument("--seconds", type=float, help="stop after this time; the same command resumes")
    options = parser.parse_args(arguments)
    try:
        train(
            options.packs, Settings.parse(options.network, options.set), options.output, options.teacher,
            options.seconds,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        raise SystemExit(f"train_packed: {' '.join(str(error).split())}") from None


def train(
    packs: list[Path], settings: Settings, output: Path, teacher: Path | None = None, seconds: float | None = None
) -> None:
    """Trains, or resumes, and writes the results after the last step.

    Raises:
        ValueError: see `Pack` and `Trainer`; or another process trains in `output`.
        OSError: a file cannot be read or written.
    """
    with locked(output, "tools.train_packed"):
        pack = Pack(packs)
        imitated = load_teacher(teacher, pack) if teacher else None
        trainer = Trainer(pack, settings, imitated, imitated and imitated.on_device).resume(output)
        if trainer.run(output, seconds, _report):
            figures = trainer.evaluate(_report)
            trainer.write_weights(output)
            log = {"settings": settings.plain(), "log": trainer.log, "validation": figures}
            log |= {"teacher": teacher.resolve().name} if teacher else {}
            write_atomically(output / LOG, json.dumps(log, indent=1) + "\n")


def _report(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
