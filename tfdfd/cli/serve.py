"""`tfdfd serve`, `app` and `web`: a model server for TensorFlow Serving's clients, and pages to drop files on."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdfd.cli import Parser
from tfdfd.cli.options import add_detection, add_quiet, detector_arguments, from_options, size
from tfdfd.cli.output import path_text, warn, write_line
from tfdfd.extract.sandbox import AUTO, SANDBOXES
from tfdfd.weights import DEFAULT_MODEL

if TYPE_CHECKING:
    from tfdfd.serve.server import Settings

_SERVE = """\
Serves SavedModels over gRPC and REST as TensorFlow Serving does: Predict, Classify, Regress, metadata, states, health,
metrics for Prometheus. It is meant for one machine, tests and demonstrations; docs/serving.md says when to use
TensorFlow Serving itself.

A model is a folder with a folder per version, named by its number (as 'tfdfd publish' writes them), NAME=FOLDER, or a
handle. The highest version that loads is served. Folders are watched: a new version is loaded, warmed up and switched
to without a failed request; a broken one is reported in its state while the previous one goes on.

SIGTERM stops the server once accepted requests are answered.

Exit code: 0 stopped as asked; 1 an address or a model was not available; 2 wrong usage."""


def add_arguments(parser: Parser) -> None:
    parser.description = _SERVE
    parser.add_argument("--models", nargs="+", default=[], metavar="MODEL", help="DIR, NAME=DIR, or a handle")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="TensorFlow Serving's config file; watched")
    parser.add_argument("--versions", default="1", metavar="N", help="the N highest of each, or all")
    parser.add_argument(
        "--label", action="append", default=[], metavar="MODEL:LABEL=VERSION", help="such as meso:stable=1; repeatable"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=8500, metavar="N", help="gRPC port; 0 for any (default: 8500)")
    parser.add_argument("--rest-port", type=int, default=8501, metavar="N", help="0 any, -1 none (default: 8501)")
    parser.add_argument("--rest-seconds", type=float, default=30.0, metavar="S", help="time for a REST request")
    parser.add_argument(
        "--poll-seconds", type=float, default=1.0, metavar="S", help="time between checks of the folders"
    )
    parser.add_argument(
        "--load-seconds", type=float, default=300.0, metavar="S", help="time to try a version (default: 300)"
    )
    parser.add_argument(
        "--no-trial", action="store_true", help="load versions without trying them in their own process first"
    )
    parser.add_argument("--grace-seconds", type=float, default=30.0, metavar="S", help="time to answer before stopping")
    parser.add_argument("--allow-reload", action="store_true", help="let clients change which models are served")
    parser.add_argument("--allow-any-graph", action="store_true", help="also serve SavedModels with unsafe operations")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also serve REST requests with this Host or Origin, such as those of a proxy (repeatable)",
    )
    parser.add_argument(
        "--sandbox",
        choices=SANDBOXES,
        default=AUTO,
        help="decode pictures in sealed processes: auto where possible, require or refuse, off in the model's graph",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing on standard error but errors")
    limits = parser.add_argument_group("limits (bytes as a number, or with a suffix: 50M, 2GiB)")
    limits.add_argument(
        "--max-batch", type=int, default=4, metavar="N", help="rows per call (default: 4; more for a GPU)"
    )
    limits.add_argument("--max-wait-ms", type=float, default=0.0, metavar="MS", help="for a fuller batch")
    limits.add_argument(
        "--threads", type=int, default=os.cpu_count(), metavar="N", help="calls at a time (default: one per core)"
    )
    limits.add_argument("--max-rows", type=int, default=256, metavar="N", help="rows per request")
    limits.add_argument("--max-requests", type=int, default=512, metavar="N", help="requests waiting")
    limits.add_argument("--max-bytes", type=size, default=1 << 30, metavar="N", help="their bytes (default: 1GiB)")
    limits.add_argument("--max-seconds", type=float, default=60.0, metavar="S", help="time for a call")
    limits.add_argument("--max-message", type=size, default=32 << 20, metavar="N", help="bytes of one (default: 32MiB)")
    limits.add_argument(
        "--max-receive", type=size, default=256 << 20, metavar="N", help="bytes being received (default: 256MiB)"
    )
    limits.add_argument("--max-connections", type=int, default=512, metavar="N", help="per interface")
    tls = parser.add_argument_group("TLS, for both interfaces (PEM files)")
    tls.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate of the server")
    tls.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    tls.add_argument("--client-ca", type=Path, metavar="FILE", help="clients need a certificate of this authority")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    import asyncio
    import gc

    from tfdfd.serve import server

    configs, settings = _configs(arguments), _settings(arguments)
    if not server.is_loopback(settings.host) and (settings.tls is None or settings.tls.client_authority is None):
        warn(
            f"tfdfd serve: {settings.host} is reachable from other machines, and clients are not authenticated; "
            "put an authenticating gateway in front of it, or use --client-ca."
        )

    def ready(port: int, rest_port: int | None) -> None:
        rest = "" if rest_port is None else f", REST at {_address(settings, rest_port)}"
        write_line(f"serving: gRPC at {_address(settings, port)}{rest}", flush=True)

    def note(text: str) -> None:
        if not arguments.quiet:
            warn(text)

    # Garbage collection would look through all of TensorFlow, and stop every request meanwhile.
    gc.freeze()
    asyncio.run(server.serve(configs, settings, ready, note))
    return 0


def _configs(arguments: Namespace) -> Any:
    from dataclasses import replace

    from tfdfd.serve.model_configs import config_of, read_configs

    if bool(arguments.models) == bool(arguments.model_config):
        raise ValueError("expected --models or --model-config, and not both.")
    if arguments.model_config:
        if arguments.label or arguments.versions != "1":
            raise ValueError("--versions and --label are part of the file of --model-config.")
        return read_configs(arguments.model_config)
    latest = None
    if arguments.versions != "all":
        if not arguments.versions.isdecimal():
            raise ValueError(f"--versions expects a number or 'all'; received {arguments.versions!r}.")
        latest = int(arguments.versions)
    configs = {}
    for word in arguments.models:
        config = config_of(word, latest)
        if config.name in configs:
            raise ValueError(f"two models have the name {config.name!r}; rename one of them: OTHER={word}.")
        configs[config.name] = config
    for label in arguments.label:
        name, _, rest = label.partition(":")
        key, _, version = rest.partition("=")
        if name not in configs or not key or not version.isdecimal():
            raise ValueError(
                f"--label expects MODEL:LABEL=VERSION with one of the models {', '.join(configs)}; received {label!r}."
            )
        configs[name] = replace(configs[name], labels=configs[name].labels | {key: int(version)})
    return list(configs.values())


def _settings(arguments: Namespace) -> Settings:
    from tfdfd.serve.batching import Limits
    from tfdfd.serve.server import Settings, Tls

    if bool(arguments.tls_cert) != bool(arguments.tls_key) or (arguments.client_ca and not arguments.tls_cert):
        raise ValueError("--tls-cert and --tls-key belong together, and --client-ca needs them.")
    tls = Tls(arguments.tls_cert, arguments.tls_key, arguments.client_ca) if arguments.tls_cert else None
    return from_options(
        Settings,
        arguments,
        rest_port=None if arguments.rest_port == -1 else arguments.rest_port,
        limits=from_options(Limits, arguments, max_wait=arguments.max_wait_ms / 1000),
        may_reload=arguments.allow_reload,
        allow_hosts=tuple(arguments.allow_host),
        trial=not arguments.no_trial,
        any_graph=arguments.allow_any_graph,
        tls=tls,
        config_file=arguments.model_config,
    )


def _address(settings: Settings, port: int) -> str:
    return f"[{settings.host}]:{port}" if ":" in settings.host else f"{settings.host}:{port}"


_APP = """\
Prints the address of a page for the browser on this machine. Files that are dropped there are scored as by
'tfdfd detect', with the same limits and sandbox, and never leave this machine. An uploaded file is deleted as soon as
it is scored; reports are deleted on request, and when the command ends (Ctrl-C).

The address contains a secret: who has it sees the session. Other machines cannot connect.

Exit code: 0 stopped as asked; 1 the port or the temporary folder was not available; 2 wrong usage."""


def add_app_arguments(parser: Parser) -> None:
    parser.description = _APP
    add_detection(parser, "equally spaced frames of a video")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port of the page (default: any)")
    page = parser.add_argument_group("limits of the page (--max-bytes holds for each upload, too)")
    page.add_argument("--max-queue", type=int, metavar="N", help="files uploading or waiting (default: 20)")
    page.add_argument("--max-upload-bytes", type=size, metavar="N", help="of these files in all (default: 8GiB)")
    page.add_argument("--max-history", type=int, metavar="N", help="results, the oldest goes first (default: 200)")
    page.add_argument("--upload-seconds", type=float, metavar="S", help="time for an upload (default: 600)")
    parser.set_defaults(run=run_app)


def run_app(arguments: Namespace) -> int:
    import asyncio

    from tfdfd.app.server import Settings, serve

    if not 0 <= arguments.port <= 65535:
        raise ValueError(f"--port must be between 0 and 65535; received {arguments.port}.")
    settings = from_options(Settings, arguments, detector=detector_arguments(arguments))

    def ready(address: str) -> None:
        write_line(f"page: {address}", flush=True)
        note("Open it in a browser on this machine. Ctrl-C ends it and deletes uploads and reports.")

    def note(text: str) -> None:
        if not arguments.quiet:
            warn(text)

    asyncio.run(serve(settings, ready, note))
    return 0


_WEB = """\
Writes a folder that any web server of static files can offer: a page on which visitors drop pictures and videos, which
their browser scores as 'tfdfd detect' does. Their files are not uploaded, and the page asks no other server.

The runtime, 35 MB of npm packages, is downloaded once into the user's cache folder and checked by digest.

Exit code: 0 written; 1 it could not be written; 2 wrong usage, a model that does not run in a browser, or a runtime
that is missing or altered."""


def add_web_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd web`."""
    parser.description = _WEB
    parser.add_argument("-o", "--output", required=True, metavar="SITE", help="folder; an earlier site is replaced")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="RUN|HANDLE|FILE", help="a network of single faces, such as 'fast'"
    )
    parser.add_argument(
        "--runtime",
        metavar="FOLDER",
        help="holds the npm packages (NAME-VERSION.tgz), for a machine without network",
    )
    add_quiet(parser)
    parser.set_defaults(run=run_web)


def run_web(arguments: Namespace) -> int:
    from tfdfd.web import build_site

    if not arguments.quiet:
        warn(f"tfdfd web: writing {path_text(arguments.output)} with {arguments.model}")
    settings = build_site(arguments.output, arguments.model, arguments.runtime)
    files = [os.path.join(folder, name) for folder, _, names in os.walk(arguments.output) for name in names]
    size = sum(map(os.path.getsize, files))
    model = settings["model"]
    write_line(f"site: {path_text(arguments.output)}, {len(files)} files, {size / 1e6:.1f} MB")
    write_line(f"model: {model['handle']} {model['sha256']}")
    if not arguments.quiet:
        warn("tfdfd web: 'python -m http.server -b 127.0.0.1 -d SITE' shows it on this machine; other hosts need https")
    return 0
