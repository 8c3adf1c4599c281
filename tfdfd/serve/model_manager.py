"""Life cycle of served versions: found, loaded, warmed up, switched to, and freed when unused.

All state lives in the event loop; loading and freeing run in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from tensorflow_serving.apis.model_pb2 import ModelSpec

from tfdfd.serve import FAILED_PRECONDITION, INTERNAL, INVALID_ARGUMENT, NOT_FOUND, ServingError, quoted
from tfdfd.serve.loaded_model import LoadedModel
from tfdfd.serve.model_configs import FolderSource, HubSource, ModelConfig

State = ModelVersionStatus.State
# Ended versions that are remembered for each model.
_MOST_ENDED = 100
_SECONDS_UNTIL_AGAIN = 60.0


class Version:
    """A loaded version.

    Args:
        name: name of the model.
        number: number of the version.
        model: loaded SavedModel.
    """

    def __init__(self, name: str, number: int, model: LoadedModel):
        self.name, self.number, self.model = name, number, model
        self._users, self._unused = 0, asyncio.Event()
        self._unused.set()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the version loaded within the block."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def unused(self) -> None:
        await self._unused.wait()


@dataclass
class VersionState:
    """State of a version in GetModelStatus."""

    state: int = State.START
    code: str = "OK"
    message: str = ""


@dataclass
class _Served:
    """A served model."""

    config: ModelConfig
    loaded: dict[int, Version] = field(default_factory=dict)
    states: dict[int, VersionState] = field(default_factory=dict)
    # Versions that could not be loaded: their files then, and the time of the next attempt.
    broken: dict[int, tuple[object, float]] = field(default_factory=dict)


class ModelManager:
    """Loads the configured models and follows their folders.

    Args:
        configs: the models.
        load: source and version -> model, warmed up; called in a thread.
        forget: called with a model before it is freed.
        note: receives log lines.
    """

    def __init__(
        self,
        configs: Iterable[ModelConfig],
        load: Callable[[FolderSource | HubSource, int], LoadedModel],
        forget: Callable[[LoadedModel], None],
        note: Callable[[str], None],
    ):
        self._models = {config.name: _Served(config) for config in configs}
        self._load, self._forget, self._note = load, forget, note
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._at_work = asyncio.Lock()
        self._leaving: set[asyncio.Task] = set()

    @property
    def configs(self) -> list[ModelConfig]:
        return [served.config for served in self._models.values()]

    async def update(self) -> None:
        """Checks all folders once: loads, switches, frees. A version that cannot be loaded does not affect others."""
        async with self._at_work:
            for served in list(self._models.values()):
                await self._update(served)

    async def configure(self, configs: Iterable[ModelConfig]) -> None:
        """Replaces the models; those that stay are not interrupted."""
        async with self._at_work:
            wanted = {config.name: config for config in configs}
            for name in [name for name in self._models if name not in wanted]:
                served = self._models.pop(name)
                for number in list(served.loaded):
                    self._let_go(served, number)
            for name, config in wanted.items():
                if name not in self._models:
                    self._models[name] = _Served(config)
                elif self._models[name].config.source != config.source:
                    served = self._models[name]
                    served.config = config
                    for number in list(served.loaded):
                        self._let_go(served, number)
                else:
                    self._models[name].config = config
            for served in list(self._models.values()):
                await self._update(served)

    def resolve(self, spec: ModelSpec) -> Version:
        """The version that a request means: by number, by label, or the highest.

        Raises:
            ServingError: NOT_FOUND or INVALID_ARGUMENT, with TensorFlow Serving's messages.
        """
        if not spec.name:
            raise ServingError(INVALID_ARGUMENT, "ModelSpec has no name specified.")
        served = self._models.get(spec.name)
        number = self._number(spec)
        asked = f"Latest({quoted(spec.name)})" if number is None else f"Specific({quoted(spec.name)}, {number})"
        loaded = {} if served is None else served.loaded
        if number is None and loaded:
            number = max(loaded)
        if number not in loaded:
            raise ServingError(NOT_FOUND, f"Servable not found for request: {asked}")
        return loaded[number]

    def states(self, spec: ModelSpec) -> dict[int, VersionState]:
        """State of each version of a model, or of the one that `spec` means, the highest first.

        Raises:
            ServingError: NOT_FOUND or INVALID_ARGUMENT, with TensorFlow Serving's messages.
        """
        served = self._models.get(spec.name)
        number = self._number(spec)
        states = {} if served is None else served.states
        if number is not None:
            if number not in states:
                raise ServingError(NOT_FOUND, f"Could not find version {number} of model {quoted(spec.name)}")
            return {number: states[number]}
        if not states:
            raise ServingError(NOT_FOUND, f"Could not find any versions of model {quoted(spec.name)}")
        return dict(sorted(states.items(), reverse=True))

    def knows(self, name: str) -> bool:
        """Whether a model of that name is configured."""
        return name in self._models

    def missing(self) -> str:
        """Describes models without a loaded version, and why; empty if there are none."""
        return "; ".join(_why(served) for served in self._models.values() if not served.loaded)

    async def close(self) -> None:
        """Waits for running requests, and frees everything."""
        async with self._at_work:
            for served in self._models.values():
                for number in list(served.loaded):
                    self._let_go(served, number)
            await asyncio.gather(*self._leaving)
        self._thread.shutdown()

    def _number(self, spec: Any) -> int | None:
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            served = self._models.get(spec.name)
            number = None if served is None else served.config.labels.get(spec.version_label)
            if number is None:
                raise ServingError(
                    INVALID_ARGUMENT, f"Unrecognized servable version label: {quoted(spec.version_label)}"
                )
            return number
        if choice != "version":
            return None
        number = spec.version.value
        # Clients of OpenVINO's server, which has the same protocol, send 0 for the highest version.
        states = self._models[spec.name].states if spec.name in self._models else {}
        return None if number == 0 and 0 not in states else number

    async def _update(self, served: _Served) -> None:
        config = served.config
        try:
            found = await self._in_thread(config.source.versions)
        except (OSError, ValueError) as error:
            self._note(f"{config.name}: {config.source} cannot be read: {error}; loaded versions stay.")
            return
        wanted: list[int] = []
        for number in config.versions or found:
            if not config.versions and config.latest is not None and len(wanted) == config.latest:
                break
            if number in served.loaded or await self._loads(served, number, found.get(number)):
                wanted.append(number)
        if not wanted:
            return  # loaded versions stay
        for number in set(served.loaded) - set(wanted):
            self._let_go(served, number)

    async def _loads(self, served: _Served, number: int, found: Any) -> bool:
        """Loads a version; returns whether it is loaded now."""
        config, now = served.config, time.monotonic()
        as_before, again = served.broken.get(number, (None, 0.0))
        if number in served.broken and as_before == found and now < again:
            return False
        state = served.states.setdefault(number, VersionState())
        state.state = State.LOADING
        try:
            model = await self._in_thread(self._load, config.source, number)
        except Exception as error:
            # Invalid files must not end the server, whatever the error.
            code, message = _status_of(error)
            if message != state.message:
                self._note(f"{config.name} version {number}: not loaded: {message}")
            state.state, state.code, state.message = State.END, code, message
            served.broken[number] = found, now + _SECONDS_UNTIL_AGAIN
            return False
        served.loaded[number] = Version(config.name, number, model)
        served.broken.pop(number, None)
        served.states[number] = VersionState(State.AVAILABLE)
        self._note(f"{config.name} version {number}: available")
        return True

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _let_go(self, served: _Served, number: int) -> None:
        """Takes a version out of service; it is freed when its running requests are answered."""
        version = served.loaded.pop(number)
        served.states[number].state = State.UNLOADING
        task = asyncio.get_running_loop().create_task(self._free(served, version))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _free(self, served: _Served, version: Version) -> None:
        await version.unused()
        self._forget(version.model)
        await self._in_thread(version.model.close)
        name, number = version.name, version.number
        del version
        await self._in_thread(gc.collect)  # the objects of a graph refer to each other
        state = served.states.get(number)
        if state is not None and state.state == State.UNLOADING:
            state.state = State.END
        ended = sorted(number for number, state in served.states.items() if state.state == State.END)
        for old in ended[:-_MOST_ENDED]:
            del served.states[old]
        self._note(f"{name} version {number}: unloaded")


def _status_of(error: Exception) -> tuple[str, str]:
    if isinstance(error, ServingError):
        return error.code, error.message
    if isinstance(error, (ValueError, OSError)):
        return FAILED_PRECONDITION, str(error)
    return INTERNAL, f"{type(error).__name__}: {error}"


def _why(served: _Served) -> str:
    broken = [f"version {number}: {state.message}" for number, state in served.states.items() if state.message]
    return f"{served.config.name} ({'; '.join(broken) or f'{served.config.source} has no version'})"
