"""Entry point of the command `tfdfd`: parses the command line and calls one function of the verb."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from tfdfd.cli import USAGE_ERROR, Parser
from tfdfd.cli.output import standard_streams, verbose_log, warn
from tfdfd.process import import_quickly
from tfdfd.version import __version__


class Verb(NamedTuple):
    """A row of the table of verbs.

    Attributes:
        target: `module:function`; the function adds the arguments of the verb, and its `run`, to a parser.
        help: one line for `tfdfd --help`.
    """

    target: str
    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Imports the module of the verb and adds its arguments."""
        module, function = self.target.split(":")
        getattr(importlib.import_module(module), function)(parser)


VERBS = {
    "detect": Verb("tfdfd.cli.detect:add_arguments", "detect deepfakes in images, videos and folders"),
    "verify": Verb("tfdfd.cli.detect:add_verify_arguments", "repeat a recorded detection and compare the outcomes"),
    "index": Verb("tfdfd.cli.extract:add_index_arguments", "list and check the files of a data set"),
    "extract": Verb("tfdfd.cli.extract:add_arguments", "cut face crops out of the videos of a data set"),
    "split": Verb("tfdfd.cli.split:add_split_arguments", "split a table into train, val and test without leaks"),
    "check-leaks": Verb("tfdfd.cli.split:add_check_leaks_arguments", "look for leaks between splits"),
    "merge": Verb("tfdfd.cli.split:add_merge_arguments", "merge the tables of several data sets"),
    "srm": Verb("tfdfd.cli.data:add_srm_arguments", "write the SRM noise residuals of a face set"),
    "pack": Verb("tfdfd.cli.data:add_pack_arguments", "pack face crops into TFRecord shards"),
    "data": Verb("tfdfd.cli.data:add_data_arguments", "prepare and preview training data"),
    "recipes": Verb("tfdfd.cli.training:add_recipes_arguments", "list the training recipes"),
    "train": Verb("tfdfd.cli.training:add_train_arguments", "train a network by a recipe"),
    "finetune": Verb("tfdfd.cli.training:add_finetune_arguments", "fine-tune a model on real and fake media"),
    "tune": Verb("tfdfd.cli.training:add_tune_arguments", "search the hyperparameters of a network"),
    "prune": Verb("tfdfd.cli.training:add_prune_arguments", "prune the weights of a network"),
    "evaluate": Verb("tfdfd.cli.evaluate:add_arguments", "evaluate a model on a test set"),
    "reproduce": Verb("tfdfd.cli.reproduce:add_arguments", "reproduce the tables of a source document on your data"),
    "explain": Verb("tfdfd.cli.explain:add_arguments", "explain scores by heat maps of faces"),
    "export": Verb(
        "tfdfd.cli.models:add_export_arguments", "export to SavedModel (TF Hub, TF Serving), LiteRT, ONNX or OpenVINO"
    ),
    "publish": Verb("tfdfd.cli.models:add_publish_arguments", "publish a trained network in a hub"),
    "app": Verb("tfdfd.cli.serve:add_app_arguments", "open a page on this machine to drop files on"),
    "web": Verb("tfdfd.cli.serve:add_web_arguments", "write a site that scores files in the visitor's browser"),
    "serve": Verb("tfdfd.cli.serve:add_arguments", "serve models to clients of TensorFlow Serving"),
    "models": Verb("tfdfd.cli.models:add_arguments", "list, show, measure, download and verify models"),
    "completion": Verb("tfdfd.cli.completion:add_arguments", "print the completion script of a shell"),
    "benchmark": Verb("tfdfd.cli.reproduce:add_benchmark_arguments", "repeat the measurements of the source documents"),
}


def build_parser() -> Parser:
    """The parser of the command line. A verb's own arguments are added when the verb is parsed."""
    parser = Parser(prog="tfdfd", description="Deepfake detection: P(fake) for faces in images and videos.")
    parser.add_argument("--version", action="version", version=f"tfdfd {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, dest="verb")
    for name, verb in VERBS.items():
        verbs.add_parser(name, help=verb.help, add_arguments=verb.add_arguments)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    # At its end, Python looks for garbage several times: more than a second where TensorFlow is loaded.
    atexit.register(gc.freeze)
    if argv is None:  # the process is ours
        import_quickly()
    with standard_streams() as reader_has_gone, _clean_ends():
        code, arguments = _run(argv)
        # Output that nobody read is lost, unless the result of the verb is a file.
        return 1 if code == 0 and reader_has_gone() and not getattr(arguments, "output", None) else code


@contextlib.contextmanager
def _clean_ends() -> Iterator[None]:
    """Until the end of the block, SIGTERM and SIGHUP end the work as Ctrl-C does: temporary files are removed.

    A second signal ends the process at once. Signals that are ignored (`nohup`) or handled by others stay so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
    handled = [number for name in names if signal.getsignal(number := getattr(signal, name)) is signal.SIG_DFL]

    def end(number: int, frame: object) -> NoReturn:
        restore()
        raise SystemExit(128 + number)

    def restore() -> None:
        for number in handled:
            if signal.getsignal(number) is end:
                signal.signal(number, signal.SIG_DFL)

    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        restore()


def _run(argv: Sequence[str] | None) -> tuple[Any, argparse.Namespace | None]:
    """The exit code, and the parsed arguments if there are any."""
    arguments = None
    try:
        try:
            arguments = build_parser().parse_args(argv)
            with verbose_log(getattr(arguments, "verbose", 0)):
                check(arguments)
                return arguments.run(arguments), arguments
        except SystemExit as stop:  # of --help, --version and wrong usage
            return stop.code, arguments
        finally:
            sys.stdout.flush()
    except ValueError as error:
        warn(f"tfdfd: {error}")
        return USAGE_ERROR, arguments
    except (OSError, RuntimeError) as error:
        warn(f"tfdfd: {error}")
        return 1, arguments
    except KeyboardInterrupt:
        warn("tfdfd: interrupted")
        return 130, arguments


def check(arguments: argparse.Namespace) -> None:
    """Raises `ValueError` before any work if a library is missing or an output file cannot be written."""
    from tfdfd.cli.extras import check_extras
    from tfdfd.cli.options import OutputFile, check_writable

    check_extras(arguments)
    folder = os.path.abspath(getattr(arguments, "output", None) or "")
    for value in vars(arguments).values():
        # A file in the folder that the verb makes cannot be checked yet.
        in_new_folder = not os.path.exists(folder) and os.path.dirname(os.path.abspath(str(value))) == folder
        if isinstance(value, OutputFile) and not in_new_folder:
            check_writable(value)


if __name__ == "__main__":
    raise SystemExit(main())
