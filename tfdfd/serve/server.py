"""The server: models, gRPC and REST in one event loop, from the first load to a stop that leaves nobody unanswered."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from tensorflow_serving.apis.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from tensorflow_serving.apis.prediction_service_pb2_grpc import add_PredictionServiceServicer_to_server

from tfdfd.publishing.allowed_operations import check_operations
from tfdfd.serve.batching import Batcher, Limits
from tfdfd.serve.errors import Journal, OneLine
from tfdfd.serve.grpc_services import ModelService, PredictionService
from tfdfd.serve.loaded_model import LoadedModel
from tfdfd.serve.metrics import Metrics
from tfdfd.serve.model_configs import ModelConfig, read_configs
from tfdfd.serve.model_manager import ModelManager
from tfdfd.serve.rest import RestSide
from tfdfd.serve.service import Service
from tfdfd.serve.warm_up import warm_up

_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
# Of gRPC, besides predictions: states, health.
_OTHER_CALLS = 256


class ServeError(RuntimeError):
    """The server cannot begin; the message says why."""


@dataclass(frozen=True)
class Tls:
    """PEM files.

    Args:
        certificate: of the server, with those between it and its authority.
        key: of the certificate.
        client_authority: whoever shows no certificate of this authority is refused.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Args:
        host: address to listen at.
        port: of gRPC; 0 for any that is free.
        rest_port: of REST; 0 for any that is free, None for none.
        limits: of batches and queues.
        max_message: bytes of a request.
        max_connections: at a time, of each side.
        rest_seconds: until a request to REST must have come and been answered; silent connections are closed then.
        poll_seconds: how often folders are looked into.
        grace_seconds: what a stop waits for accepted requests.
        may_reload: whether clients may say which models are served.
        any_graph: whether SavedModels may hold operations that could do more than compute.
        tls: None for none.
        config_file: a `models.config`, followed while serving.
    """

    host: str = "127.0.0.1"
    port: int = 8500
    rest_port: int | None = 8501
    limits: Limits = field(default_factory=Limits)
    max_message: int = 32 << 20
    max_connections: int = 512
    rest_seconds: float = 30.0
    poll_seconds: float = 1.0
    grace_seconds: float = 30.0
    may_reload: bool = False
    any_graph: bool = False
    tls: Tls | None = None
    config_file: Path | None = None


async def serve(
    configs: list[ModelConfig],
    settings: Settings,
    ready: Callable[[int, int | None], None],
    note: Callable[[str], None],
) -> None:
    """Serves until SIGTERM or SIGINT; requests accepted before are answered.

    Args:
        configs: the models.
        settings: how to serve.
        ready: called with the ports once requests are answered.
        note: told in words of what happens to models.

    Raises:
        ServeError: an address cannot be had, or a model has no version that can be loaded.
    """
    OneLine.install()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)

    def load(source, number):
        folder = source.folder(number)
        if not settings.any_graph:
            check_operations(folder)
        model = LoadedModel(folder)
        warm_up(model, settings.limits.max_seconds)
        return model

    metrics = Metrics()
    batcher = Batcher(settings.limits, metrics.batch)
    metrics.gauge("requests_in_flight", "Requests accepted and not yet answered.", lambda: batcher.requests)
    metrics.gauge("bytes_in_flight", "Bytes of the arrays of those.", lambda: batcher.bytes)
    manager = ModelManager(configs, load, lambda model: batcher.forget(model.signatures.values()), note)
    service = Service(manager, batcher, settings.may_reload)
    grpc_side, rest_side = (
        _grpc_server(settings),
        RestSide(
            service, metrics, settings.max_message, settings.rest_seconds, settings.max_connections, Journal(note)
        ),
    )
    tasks = []
    try:
        add_PredictionServiceServicer_to_server(PredictionService(service, metrics), grpc_side)
        add_ModelServiceServicer_to_server(ModelService(service, metrics), grpc_side)
        watch = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(watch, grpc_side)
        for name in _SERVICES:
            await watch.set(name, HealthCheckResponse.SERVING)
        port = _listen(grpc_side, settings)
        starting = loop.create_task(manager.update())
        ending = loop.create_task(stop.wait())
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
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
        note("ending: accepted requests are answered")
        await watch.end()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(grpc_side.stop(settings.grace_seconds), rest_side.stop(settings.grace_seconds))
        batcher.close()
        await manager.close()


class _Health(health.HealthServicer):
    """Who watches is told of the end, and then let go: a stop would wait for them."""

    def __init__(self):
        super().__init__()
        self._ended = asyncio.Event()

    async def Watch(self, request, context):
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
        await asyncio.sleep(0.1)  # until watchers have it
        self._ended.set()


def _grpc_server(settings):
    options = {
        "grpc.max_receive_message_length": settings.max_message,
        "grpc.max_send_message_length": -1,
        # Two servers at one address would share its clients without a word.
        "grpc.so_reuseport": 0,
        "grpc.max_allowed_incoming_connections": settings.max_connections,
        # Whoever does not shake hands, or has gone without a word, is not waited for.
        "grpc.server_handshake_timeout_ms": 10_000,
        "grpc.keepalive_time_ms": 60_000,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.http2.min_ping_interval_without_data_ms": 10_000,
    }
    return grpc.aio.server(
        options=list(options.items()), maximum_concurrent_rpcs=settings.limits.max_requests + _OTHER_CALLS
    )


def _listen(server, settings):
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


async def _listen_rest(side, settings):
    tls = None
    if settings.tls is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=settings.tls.client_authority)
        tls.load_cert_chain(settings.tls.certificate, settings.tls.key)
        if settings.tls.client_authority is not None:
            tls.verify_mode = ssl.CERT_REQUIRED
    try:
        return await side.start(settings.host, settings.rest_port, tls)
    except OSError as error:
        raise ServeError(
            f"REST cannot have the address {_bracketed(settings.host)}:{settings.rest_port}: {error}."
        ) from error


def _check_loaded(manager):
    missing = manager.missing()
    if missing:
        raise ServeError(f"no version could be loaded of {missing}")


async def _follow(manager, settings, note):
    """Folders, and the configuration where it is a file."""
    seen = _read(settings.config_file)
    while True:
        await asyncio.sleep(settings.poll_seconds)
        try:
            found = _read(settings.config_file)
            if found != seen:
                seen = found
                await manager.configure(read_configs(settings.config_file))
                note(f"{settings.config_file}: read again")
            else:
                await manager.update()
        except (OSError, ValueError) as error:
            note(f"what is served stays: {error}")


def _read(file):
    if file is None:
        return None
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _bracketed(host):
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
