"""Writes the `models.config` of a hub to standard output: all its models, with labels that clients ask for.

    python -m tf_serving.models_config saved_models > tf_serving/models.config
    python -m tf_serving.models_config HUB --stable meso_inception4=1 --also meso_inception4=2 > models.config
    python -m tf_serving.models_config HUB --stable meso_inception4=1 --canary meso_inception4=2 > models.config

The second makes a running server load version 2, the third then gives it a label. In one step ModelServer would refuse:
it moves labels before it loads, and moves none to a version that is not loaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

_HEAD = """\
# What TensorFlow Serving serves: --model_config_file. One entry a model; base_path is the hub as it is mounted.
# Every version named here must lie in the hub, or the server waits for it and opens no port.
# Clients ask for a label: "stable" is what all use, "canary" what is on trial. See README.md, "A new version".
# Written by: python -m tf_serving.models_config

"""
_ENTRY = """\
  config {{
    name: "{name}"
    base_path: "{mount}/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ specific {{ {versions} }} }}
    version_labels {{ key: "stable" value: {stable} }}
    version_labels {{ key: "canary" value: {canary} }}
  }}
"""


def models_config(
    hub: Path,
    stable: dict[str, int] | None = None,
    canary: dict[str, int] | None = None,
    also: Iterable[tuple[str, int]] = (),
    mount: str = "/models",
) -> str:
    """The text of a ModelServerConfig.

    Args:
        hub: folder with `<model>/<version>/saved_model.pb`, as `tfdfd publish` writes it.
        stable: version of the label `stable` by model; of one that is not named, the highest.
        canary: the same of the label `canary`; of one that is not named, the stable one.
        also: models with versions that are served without a label.
        mount: where the server finds the hub.

    Raises:
        ValueError: there are no models, or a model or version that is not there is named.
    """
    stable, canary, also = stable or {}, canary or {}, list(also)
    found = _versions(hub)
    if not found:
        raise ValueError(f"{hub} holds no model: expected MODEL/VERSION/saved_model.pb, as 'tfdfd publish' writes it.")
    for name, version in (*stable.items(), *canary.items(), *also):
        if name not in found:
            raise ValueError(f"{hub} has no model {name}; there are {', '.join(sorted(found))}.")
        if version not in found[name]:
            there = ", ".join(map(str, found[name]))
            raise ValueError(f"{hub} has no version {version} of {name}; there are {there}.")
    entries = []
    for name, versions in sorted(found.items()):
        usual = stable.get(name, versions[-1])
        trial = canary.get(name, usual)
        served = sorted({usual, trial, *(version for other, version in also if other == name)})
        listed = " ".join(f"versions: {version}" for version in served)
        entries.append(_ENTRY.format(name=name, mount=mount, versions=listed, stable=usual, canary=trial))
    return f"{_HEAD}model_config_list {{\n{''.join(entries)}}}\n"


def _versions(hub):
    found: dict[str, list[int]] = {}
    for file in hub.glob("*/*/saved_model.pb"):
        version = file.parent.name
        if version.isascii() and version.isdigit():
            found.setdefault(file.parent.parent.name, []).append(int(version))
    return {name: sorted(versions) for name, versions in found.items()}


def _label(text):
    name, _, version = text.rpartition("=")
    if not name or not (version.isascii() and version.isdigit()):
        raise argparse.ArgumentTypeError(f"expected MODEL=VERSION; received {text!r}")
    return name, int(version)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: written; 2: wrong usage, or a hub that does not hold what is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hub", type=Path, metavar="HUB")
    parser.add_argument("--stable", type=_label, action="append", default=[], metavar="MODEL=VERSION")
    parser.add_argument("--canary", type=_label, action="append", default=[], metavar="MODEL=VERSION")
    parser.add_argument(
        "--also", type=_label, action="append", default=[], metavar="MODEL=VERSION", help="served without a label"
    )
    parser.add_argument("--mount", default="/models", metavar="DIR", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    try:
        text = models_config(
            arguments.hub, dict(arguments.stable), dict(arguments.canary), arguments.also, arguments.mount
        )
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
