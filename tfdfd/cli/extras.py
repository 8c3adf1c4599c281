"""Optional libraries that a verb needs, checked before anything heavy is imported."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from typing import NamedTuple


class _Need(NamedTuple):
    verb: str
    modules: tuple[str, ...]
    extra: str | None  # of tfdfd; None: the module is installed by its own name
    when: Callable[[argparse.Namespace], bool] = lambda arguments: True


def _is(option: str, *values: object) -> Callable[[argparse.Namespace], bool]:
    return lambda arguments: getattr(arguments, option, None) in values


def _is_on_jax(arguments: argparse.Namespace) -> bool:
    return (arguments.backend or os.environ.get("KERAS_BACKEND")) == "jax"


_TRAINING = ("matplotlib", "scipy", "sklearn", "tensorboard")
_PUBLISHING = ("tensorflow_serving",)
# The versions that an extra installs are in setup.cfg.
NEEDS = (
    _Need("detect", ("openvino",), "edge", _is("runtime", "openvino")),
    _Need("detect", ("ray",), "cluster", _is("engine", "ray")),
    _Need("app", ("aiohttp",), "app"),
    _Need("app", ("openvino",), "edge", _is("runtime", "openvino")),
    _Need("extract", ("ray",), "cluster", _is("engine", "ray")),
    _Need("data", ("av", "scipy"), "train", _is("action", "swap")),
    _Need("train", _TRAINING, "train"),
    _Need("train", ("jax",), None, _is_on_jax),
    _Need("finetune", _TRAINING, "train"),
    _Need("reproduce", _TRAINING, "train"),
    _Need("tune", ("keras_tuner", *_TRAINING), "tune"),
    _Need("tune", ("jax",), None, _is_on_jax),
    _Need("prune", ("scipy", "sklearn", "tensorflow_model_optimization", "tf_keras"), "prune"),
    _Need("prune", ("ai_edge_litert",), "prune", _is("int8", True)),
    _Need("evaluate", ("matplotlib",), "train", _is("no_plots", False)),
    _Need("export", _PUBLISHING, "export", _is("format", "savedmodel")),
    _Need("export", ("ai_edge_litert",), "export", _is("format", "litert")),
    _Need("export", ("onnxruntime", "tf2onnx"), "export", _is("format", "onnx")),
    _Need("export", ("openvino",), "export", _is("format", "openvino")),
    _Need("web", ("onnxruntime", "tf2onnx"), "export"),
    _Need("publish", _PUBLISHING, "export"),
    _Need("publish", ("cryptography",), "sign", lambda arguments: arguments.sign is not None),
    _Need("models", ("cryptography",), "sign", lambda arguments: getattr(arguments, "key", None) is not None),
    _Need("serve", ("aiohttp", "grpc", "grpc_health", "prometheus_client", "tensorflow_serving"), "serve"),
    _Need("models", ("openvino",), "edge", _is("runtime", "openvino")),
    _Need("completion", ("shtab",), "completion"),
    _Need("benchmark", ("openvino",), "edge", _is("runtime", "openvino")),
)


def check_extras(arguments: argparse.Namespace) -> None:
    """Checks that the libraries that a command needs are installed, without importing them.

    Args:
        arguments: a parsed command; `verb` is its verb.

    Raises:
        ValueError: some are missing; the message ends in the command that installs them.
    """
    missing: dict[str | None, list[str]] = {}  # extra -> modules
    for need in NEEDS:
        if need.verb == arguments.verb and need.when(arguments):
            absent = [name for name in need.modules if not _is_installed(name)]
            missing.setdefault(need.extra, []).extend(absent)
    names = list(dict.fromkeys(name for absent in missing.values() for name in absent))
    if not names:
        return
    extras = ",".join(sorted(extra for extra, absent in missing.items() if extra and absent))
    packages = ([f"'tfdfd[{extras}]'"] if extras else []) + missing.get(None, [])
    without = " Or omit the plots: --no-plots." if arguments.verb == "evaluate" else ""
    raise ValueError(
        f"'tfdfd {arguments.verb}' needs {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} not "
        f"installed: run pip install {' '.join(packages)}.{without}"
    )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
    except ValueError:  # imported already, without a spec
        return True
