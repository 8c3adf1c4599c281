"""The model server: models, gRPC and REST in one event loop, from the first load to a graceful stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from tensorflow_serving.apis.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from tensorflow_serving.apis.prediction_service_pb2_grpc import add_PredictionServiceServicer_to_server

from tfdfd.extract.sandbox import AUTO, OFF, REQUIRE
from tfdfd.publishing.allowed_operations import check_operations
from tfdfd.serve import FAILED_PRECONDITION, Journal, OneLine, ServingError
from tfdfd.serve.batching import Batcher, Limits
from tfdfd.serve.decoding import Decoders
from tfdfd.serve.grpc_services import (
    SERVICE,
    GRPCInferenceService,
    ModelService,
    PredictionService,
    ReceivingInterceptor,
)
from tfdfd.serve.loaded_model import LoadedModel, hand_pixels, warm_up
from tfdfd.serve.metrics import Metrics
from tfdfd.serve.model_configs import ModelConfig, read_configs
from tfdfd.serve.model_manager import ModelManager
from tfdfd.serve.receiving import ReceiveBudget
from tfdfd.serve.rest import RestSide
from tfdfd.serve.service import Service
from tfdfd.serve.trial import Trials

_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService", SERVICE)
# Concurrent gRPC calls besides predictions: states, health.
_OTHER_CALLS = 256
# Of the grace period, for accepted requests.
_SHARE_OF_GRACE = 0.9


class ServeError(RuntimeError):
    """The server cannot start."""


@dataclass(frozen=True)
class Tls:
    """PEM files.

    Args:
        certificate: certificate of the server, with intermediate certificates.
        key: key of the certificate.
        client_authority: clients without a certificate of this authority are refused.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None


@dataclass(frozen=True)
class Settings:
    """Settings of the server.

    Args:
        host: address to listen on.
        port: port of gRPC; 0 for any free one.
        rest_port: port of REST; 0 for any free one, None for no REST.
        limits: limits of batches and queues.
        max_message: bytes of a request.
        max_receive: bytes of all requests that are being received.
        allow_hosts: names in the headers Host and Origin of REST requests that are served besides this machine's.
        max_connections: at a time, for gRPC and REST each.
        rest_seconds: time limit for receiving and answering a REST request; idle connections are closed after it.
        poll_seconds: interval of checking folders.
        trial: whether a version is loaded and warmed up in a process of its own first.
        load_seconds: time limit of that.
        grace_seconds: time limit of a stop; accepted requests are answered within nine tenths of it.
        may_reload: whether clients may change the served models.
        sandbox: whether encoded pictures are decoded in sealed processes: `auto` where the kernel and the model permit,
            `require` only, `off` in the graph.
        any_graph: whether SavedModels may have operations that could do more than compute.
        tls: None for no encryption.
        config_file: a `models.config`, followed while serving.
    """

    host: str = "127.0.0.1"
    port: int = 8500
    rest_port: int | None = 8501
    limits: Limits = field(default_factory=Limits)
    max_message: int = 32 << 20
    max_receive: int = 256 << 20
    allow_hosts: tuple[str, ...] = ()
    max_connections: int = 512
    rest_seconds: float = 30.0
    poll_seconds: float = 1.0
    trial: bool = True
    load_seconds: float = 300.0
    grace_seconds: float = 30.0
    may_reload: bool = False
    sandbox: str = AUTO
    any_graph: bool = False
    tls: Tls | None = None
    config_file: Path | None = None


async def serve(
    configs: list[ModelConfig],
    settings: Settings,
    ready: Callable[[int, int | None], None],
    note: Callable[[str], None],
) -> None:
    """Serves until SIGTERM or SIGINT; accepted requests are answered.

    Args:
        configs: the models.
        settings: settings of the server.
        ready: called with the ports when requests are answered.
        note: receives log lines.

    Raises:
        ServeError: an address is not available, or a model has no version that can be loaded.
    """
    OneLine.install()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    watchdog = threading.Timer(settings.grace_seconds, _end_now)
    watchdog.daemon = True

    def end() -> None:
        """Stops gracefully, and at the end of the grace period in any case, whatever is still running."""
        if not stop.is_set():
            stop.set()
            watchdog.start()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, end)

    trials = Trials(settings.load_seconds, settings.limits.max_seconds) if settings.trial else None

    def load(source: Any, number: int) -> Any:
        folder = source.folder(number)
        if not settings.any_graph:
            check_operations(folder)
        if trials is not None:
            trials.check(folder)
        model = LoadedModel(folder)
        warm_up(model, settings.limits.max_seconds)
        if decoders is not None:
            reason = hand_pixels(model, decode, settings.limits.max_seconds)
            if reason and settings.sandbox == REQUIRE:
                model.close()
                raise ServingError(
                    FAILED_PRECONDITION, f"its pictures cannot be decoded in sealed processes: {reason}."
                )
            if reason:
                note(f"{folder}: pictures are decoded in the graph, inside the server: {reason}")
        return model

    def decode(pictures: list[bytes], side: int) -> np.ndarray:
        return asyncio.run_coroutine_threadsafe(decoders.decode(pictures, side), loop).result()  # type: ignore[union-attr]

    decoders = None if settings.sandbox == OFF else Decoders(settings.limits.threads, settings.sandbox, note)
    metrics = Metrics()
    batcher = Batcher(settings.limits, metrics.batch)
    metrics.gauge("requests_in_flight", "Requests accepted and not yet answered.", lambda: batcher.requests)
    metrics.gauge("bytes_in_flight", "Bytes of the arrays of those.", lambda: batcher.bytes)
    manager = ModelManager(configs, load, lambda model: batcher.forget(model.signatures.values()), note)
    service = Service(manager, batcher, decoders, settings.may_reload)
    budget = ReceiveBudget(max(settings.max_receive, settings.max_message))
    metrics.gauge("bytes_being_received", "Bytes of requests that are being received.", lambda: budget.held)
    grpc_side = _grpc_server(settings, ReceivingInterceptor(budget, settings.max_message, settings.rest_seconds))
    rest_side = RestSide(
        service,
        metrics,
        budget,
        settings.max_message,
        settings.rest_seconds,
        settings.max_connections,
        Journal(note),
        _served_hosts(settings),
    )
    tasks = []
    try:
        add_PredictionServiceServicer_to_server(PredictionService(service, metrics), grpc_side)
        add_ModelServiceServicer_to_server(ModelService(service, metrics), grpc_side)
        GRPCInferenceService(service, metrics).add_to(grpc_side)
        watch = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(watch, grpc_side)
        for name in _SERVICES:  # type: ignore[assignment]
            await watch.set(name, HealthCheckResponse.SERVING)
        port = _listen(grpc_side, settings)
        starting = loop.create_task(_start(manager, decoders))
        ending = loop.create_task(stop.wait())
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if stop.is_set() and trials is not None:
            trials.close()
        await starting
        if stop.is_set():
            return
        _check_loaded(manager)
        rest_port = None
        if settings.rest_port is not None:
            rest_port = await _listen_rest(rest_side, settings)
        await grpc_side.start()
        tasks = [loop.create_task(_follow(manager, settings, note))]
        ready(port, rest_port)
        await stop.wait()
        note("stopping: accepted requests are answered")
        await watch.end()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The rest of the time is for refusing requests that could not be answered.
        grace = _SHARE_OF_GRACE * settings.grace_seconds
        await asyncio.gather(grpc_side.stop(grace), rest_side.stop(grace))
        if trials is not None:
            trials.close()
        if decoders is not None:
            await decoders.close()
        batcher.close()
        await manager.close()
        watchdog.cancel()


async def _start(manager: ModelManager, decoders: Decoders | None) -> None:
    loading = asyncio.ensure_future(manager.update())
    try:
        if decoders is not None:
            await decoders.ready()
    except RuntimeError as error:
        raise ServeError(f"{error} (--sandbox off decodes pictures in the graph.)") from error
    finally:
        await loading


def _end_now() -> None:
    sys.stderr.write("tfdfd serve: ended before everything was answered: the grace period is over\n")
    sys.stderr.flush()
    os._exit(1)


class _Health(health.HealthServicer):
    """Health service that notifies watchers of a stop and ends their calls, which a stop would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    async def Watch(self, request: Any, context: Any) -> None:
        watching = asyncio.ensure_future(super().Watch(request, context))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
        finally:
            for task in (watching, ended):
                task.cancel()

    async def end(self) -> None:
        await self.enter_graceful_shutdown()
        await asyncio.sleep(0.1)  # until watchers are notified
        self._ended.set()


def _served_hosts(settings: Settings) -> frozenset[str] | None:
    """Names in Host and Origin that are served: this machine's where only it can connect, else any unless given."""
    hosts = {host.lower() for host in settings.allow_hosts}
    if is_loopback(settings.host):
        return frozenset(hosts | {"localhost", "127.0.0.1", "::1", settings.host})
    return frozenset(hosts | {settings.host}) if hosts else None


def _grpc_server(settings: Settings, interceptor: Any) -> grpc.aio.Server:
    options = {
        "grpc.max_receive_message_length": settings.max_message,
        "grpc.max_send_message_length": -1,
        # Otherwise two servers could share an address and its clients unnoticed.
        "grpc.so_reuseport": 0,
        "grpc.max_allowed_incoming_connections": settings.max_connections,
        # Ends connections without a handshake, or whose client has vanished.
        "grpc.server_handshake_timeout_ms": 10_000,
        "grpc.keepalive_time_ms": 60_000,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.http2.min_ping_interval_without_data_ms": 10_000,
    }
    return grpc.aio.server(
        interceptors=[interceptor],
        options=list(options.items()),
        maximum_concurrent_rpcs=settings.limits.max_requests + _OTHER_CALLS,
    )


def _listen(server: Any, settings: Settings) -> int:
    address = f"{_bracketed(settings.host)}:{settings.port}"
    try:
        if settings.tls is None:
            return server.add_insecure_port(address)
        ca = settings.tls.client_authority
        return server.add_secure_port(
            address,
            grpc.ssl_server_credentials(
                [(settings.tls.key.read_bytes(), settings.tls.certificate.read_bytes())],
                root_certificates=None if ca is None else ca.read_bytes(),
                require_client_auth=ca is not None,
            ),
        )
    except RuntimeError as error:
        raise ServeError(f"gRPC cannot have the address {address}: {error}.") from error


async def _listen_rest(side: RestSide, settings: Settings) -> int:
    tls = None
    if settings.tls is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=settings.tls.client_authority)
        tls.load_cert_chain(settings.tls.certificate, settings.tls.key)
        if settings.tls.client_authority is not None:
            tls.verify_mode = ssl.CERT_REQUIRED
    try:
        return await side.start(settings.host, settings.rest_port, tls)  # type: ignore[arg-type]
    except OSError as error:
        raise ServeError(
            f"REST cannot have the address {_bracketed(settings.host)}:{settings.rest_port}: {error}."
        ) from error


def _check_loaded(manager: ModelManager) -> None:
    missing = manager.missing()
    if missing:
        raise ServeError(f"no version could be loaded of {missing}")


async def _follow(manager: ModelManager, settings: Settings, note: Callable[[str], None]) -> None:
    """Follows folders, and the configuration file if there is one."""
    known = _stamp(settings.config_file)
    while True:
        await asyncio.sleep(settings.poll_seconds)
        try:
            current = _stamp(settings.config_file)
            if current != known:
                known = current
                await manager.configure(read_configs(settings.config_file))  # type: ignore[arg-type]
                note(f"{settings.config_file}: read again")
            else:
                await manager.update()
        except (OSError, ValueError) as error:
            note(f"what is served stays: {error}")


def _stamp(file: Path | None) -> tuple[int, int] | None:
    if file is None:
        return None
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether an address is reachable only from this machine."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
