"""`tfdfd models`: which networks and weights there are, what is known of them, and fetching them."""

from __future__ import annotations

import json


def add_parser(verbs) -> None:
    parser = verbs.add_parser("models", help="list networks and weights, show a model card, fetch weights")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    actions.add_parser("list", help="all networks and weights, and where they are").set_defaults(run=_list)
    show = actions.add_parser("show", help="the model card of a handle or a weights file, as JSON")
    show.add_argument("model", metavar="HANDLE|FILE")
    show.set_defaults(run=_show)
    fetch = actions.add_parser("pull", help="fetch published weights into the cache and check their digest")
    fetch.add_argument("handles", nargs="+", metavar="HANDLE")
    fetch.set_defaults(run=_pull)


def _list(_) -> int:
    from tfdfd.models import list_models, spec
    from tfdfd.weights.store import where

    for name in list_models():
        known = spec(name)
        height, width, _ = known.input_shape
        print(f"{name}: {width} x {height}, {known.params:,} parameters, {known.macs / 1e6:.1f} M MACs; {known.source}")
        for record in known.weights:
            print(f"  {record.handle:28} {where(record):38} {record.licence}")
    return 0


def _show(arguments) -> int:
    from tfdfd.weights.records import find_record
    from tfdfd.weights.store import PREFIX, locate

    model = arguments.model
    record = find_record(model) if model.startswith(PREFIX) else locate(model)[0]
    print(json.dumps(record.card, indent=1))
    return 0


def _pull(arguments) -> int:
    from tfdfd.weights.store import pull

    for handle in arguments.handles:
        print(f"{handle}: {pull(handle)}")
    return 0
