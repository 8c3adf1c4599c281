"""A search: every trial accounted for, whatever fails, is killed or goes silent; the same however often it stops."""

import contextlib
import csv
import functools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from keras_tuner.engine.trial import Trial

from tests.made_faces import make_faces
from tfdfd.process import oom_kills
from tfdfd.training import TrainingError
from tfdfd.tuning import TUNERS, oracles, outcome
from tfdfd.tuning.hypermodel import assignments
from tfdfd.tuning.oracles import Chief, Crew, SearchError, make_oracle
from tfdfd.tuning.search import (
    ALONE,
    CHIEF,
    MOST_DEATHS,
    MOST_OOM_DEATHS,
    WORKER,
    make_search,
    read_record,
    role,
    run_alone,
    run_trial,
    run_trials,
)
from tfdfd.tuning.search_space import Setting, Space

SPACE = Space(
    network="meso4",
    recipe="s1-meso4",
    fixed=(),
    search=(
        Setting("learning_rate", low=1e-4, high=1e-2, scale="log"),
        Setting("arguments.dropout", low=0.1, high=0.5),
        Setting("augment", choices=(None, "s1")),
        Setting("momentum", choices=(0.8, 0.9)),
    ),
)
# KerasTuner's Gaussian process takes seconds a trial, and more with each setting.
RATE = replace(SPACE, search=SPACE.search[:1])


class Silent(contextlib.nullcontext):
    """A report that keeps nothing."""

    def __enter__(self):
        return self

    def step(self, *progress):
        pass

    def epoch(self, row):
        pass

    def note(self, text):
        pass


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder, videos=36)
    return folder


@pytest.fixture(scope="module")
def space_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("space") / "space.json"
    search = {"learning_rate": {"min": 1e-4, "max": 1e-2, "scale": "log"}, "augment": {"choices": [None, "s1"]}}
    file.write_text(json.dumps({"network": "meso4", "recipe": "s1-meso4", "search": search}))
    return file


def oracle_in(folder, tuner="random", max_trials=None, seed=0):
    folder.mkdir(exist_ok=True)
    space, few = (RATE, 5) if tuner == "bayesian" else (SPACE, 9)
    return make_oracle(tuner, space, "val_auc", max_trials or few, 9, seed, folder)


def pretend(trial_id, values, best=1e-3):
    """A made-up training with a best learning rate."""
    off = abs(math.log10(values["learning_rate"] / best)) / 3
    return {"val_auc": 1 - off - 0.1 * values.get("arguments.dropout", 0)}


def told(oracle):
    return [(one.trial_id, one.status, one.score, one.hyperparameters.values) for one in oracle.trials.values()]


@pytest.mark.parametrize("tuner", TUNERS)
def test_values_are_of_the_space_and_each_tuner_ends(tuner, tmp_path):
    oracle = oracle_in(tmp_path, tuner)
    run_trials(None, oracle, "alone", pretend)
    assert oracle.is_over
    assert [trial.status for trial in oracle.trials.values()] == ["COMPLETED"] * oracle.max_trials
    for trial in oracle.trials.values():
        values = dict(text.split("=") for text in assignments(trial.hyperparameters.values))
        assert 1e-4 <= float(values["learning_rate"]) <= 1e-2
        assert 0.1 <= float(values.get("arguments.dropout", 0.1)) <= 0.5
        assert values.get("augment", "none") in ("none", "s1")
        assert values.get("momentum", "0.8") in ("0.8", "0.9")
        assert ("epochs" in values) == (tuner == "hyperband")
        if tuner == "hyperband":
            assert 1 <= int(values["epochs"]) <= 9
    if tuner != "hyperband":  # whose later rounds are of the same values, for longer
        assert len({json.dumps(trial.hyperparameters.values) for trial in oracle.trials.values()}) == oracle.max_trials


@pytest.mark.parametrize("tuner", TUNERS)
def test_a_search_that_was_stopped_tries_what_it_would_have_tried(tuner, tmp_path):
    whole = oracle_in(tmp_path / "whole", tuner)
    run_trials(None, whole, "alone", pretend)
    left = [1, 2, 4]

    def stopped(trial_id, values):
        if left and int(trial_id) == left[0]:
            left.pop(0)
            raise KeyboardInterrupt
        return pretend(trial_id, values)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run_trials(None, oracle_in(tmp_path / "parts", tuner), "alone", stopped)
    parts = oracle_in(tmp_path / "parts", tuner)
    run_trials(None, parts, "alone", stopped)
    assert told(parts) == told(whole)


def test_bayesian_search_finds_what_is_good(tmp_path):
    oracle = oracle_in(tmp_path, "bayesian", max_trials=7)
    run_trials(None, oracle, "alone", functools.partial(pretend, best=3e-3))
    scores = [trial.score for trial in oracle.trials.values()]
    assert max(scores[:3]) < max(scores[3:])
    assert max(scores) > 0.97


@pytest.mark.parametrize("tuner", ["random", "bayesian"])
def test_the_first_trial_has_the_recipes_own_values(tuner, tmp_path):
    oracle = make_oracle(tuner, SPACE, "val_auc", 3, 9, 0, tmp_path)
    run_trials(None, oracle, "alone", pretend)
    first, *others = [trial.hyperparameters.values for trial in oracle.trials.values()]
    assert first == {"learning_rate": 1e-3, "arguments.dropout": 0.5, "augment": "s1", "momentum": 0.9}
    assert first not in others


def test_a_value_of_the_recipe_outside_the_space_is_not_tried(tmp_path):
    space = replace(SPACE, search=(Setting("learning_rate", low=2e-3, high=1e-2), Setting("momentum", choices=(0.8,))))
    assert space.own_values() == {}
    oracle = make_oracle("random", space, "val_auc", 1, 9, 0, tmp_path)
    run_trials(None, oracle, "alone", pretend)
    assert oracle.trials["0"].hyperparameters.values == {"learning_rate": 2e-3, "momentum": 0.8}


def test_an_argument_that_the_builder_does_not_take_has_no_value_of_the_recipe():
    space = replace(SPACE, search=(Setting("arguments.dropuot", low=0.1, high=0.5), SPACE.search[0]))
    assert space.own_values() == {"learning_rate": 1e-3}


def test_a_grid_is_gone_through_and_over(tmp_path):
    oracle = oracle_in(tmp_path, "grid", max_trials=100)
    run_trials(None, oracle, "alone", pretend)
    found = {tuple(trial.hyperparameters.values.values()) for trial in oracle.trials.values()}
    assert len(found) == len(oracle.trials) == 3 * 3 * 2 * 2
    assert oracle.is_over


def test_seeds(tmp_path):
    runs = [oracle_in(tmp_path / str(place), seed=seed) for place, seed in enumerate((0, 0, 1))]
    for oracle in runs:
        run_trials(None, oracle, "alone", pretend)
    assert told(runs[0]) == told(runs[1]) != told(runs[2])


def test_many_failures_in_a_row_do_not_end_a_search(tmp_path):
    oracle = oracle_in(tmp_path)
    run_trials(None, oracle, "alone", lambda trial_id, values: None if int(trial_id) < 8 else {"val_auc": 0.5})
    assert [trial.status for trial in oracle.trials.values()] == ["FAILED"] * 8 + ["COMPLETED"]


def test_the_trial_of_a_silent_worker_goes_to_another_and_counts_once(tmp_path, monkeypatch):
    oracle = oracle_in(tmp_path, max_trials=2)
    # As a worker has it, on the other side of a wire.
    lost = Trial.from_state(oracle.create_trial("worker-1").get_state())
    other = oracle.create_trial("worker-2")
    waits = oracle.create_trial("worker-3")
    assert (lost.status, other.status, waits.status) == ("RUNNING", "RUNNING", "IDLE")
    monkeypatch.setattr(oracles, "LOST_AFTER", 0.05)
    time.sleep(0.1)
    oracle.get_trial(other.trial_id)  # its worker is heard
    again = oracle.create_trial("worker-3")
    assert (again.trial_id, again.status) == (lost.trial_id, "RUNNING")
    monkeypatch.undo()
    for trial, score in ((again, 0.7), (other, 0.6)):
        oracle.update_trial(trial.trial_id, {"val_auc": score})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    lost.status = "FAILED"
    oracle.end_trial(lost)  # it was only slow
    assert [trial.status for trial in oracle.trials.values()] == ["COMPLETED", "COMPLETED"]
    assert oracle.is_over


def test_a_damaged_state_is_told(tmp_path):
    run_trials(None, oracle_in(tmp_path, max_trials=2), "alone", pretend)
    state = tmp_path / "oracle.json"
    state.write_bytes(state.read_bytes()[:-40])
    with pytest.raises(ValueError, match="oracle.json is not a state of a search"):
        oracle_in(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"begun": 1}', '{"begun": "1", "epochs": 0, "failed": null}', "\x00"])
def test_a_damaged_record_of_a_trial_names_its_file(tmp_path, faces, text):
    search = search_in(tmp_path / "search", faces)
    record = search.folder / "trials" / "0.json"
    record.parent.mkdir()
    record.write_text(text)
    with pytest.raises(
        ValueError, match=r"trials.0\.json is not a record of a trial: .* Remove it, then repeat the same command"
    ):
        read_record(search, "0")
    record.unlink()
    assert read_record(search, "0")["begun"] == 0


def search_in(folder, faces, **options):
    folder.mkdir(parents=True, exist_ok=True)
    return make_search(SPACE, faces, folder, quick=True, **options)


def test_wrong_initial_weights_are_refused_before_any_trial(tmp_path, faces):
    with pytest.raises(ValueError, match="weights of meso_inception4"):
        search_in(tmp_path / "search", faces, settings=("weights=tfdfd/meso_inception4",))
    assert not list((tmp_path / "search").iterdir())


def fails(trials, error):
    """A training that is a real one, but for some trials."""
    from tfdfd.training.procedures import train

    def run(recipe, where, folder, report, allow_leaks):
        if folder.name in trials:
            raise error
        return train(recipe, where, folder, report, allow_leaks)

    return run


def test_a_search_with_a_trial_that_fails(faces, tmp_path):
    search, notes = search_in(tmp_path / "search", faces, max_trials=3), []
    error = TrainingError("the loss is nan at step 3")
    rows, best = run_alone(search, "tfdfd tune …", Silent, notes.append, fails(["1"], error))
    assert [row["status"] for row in rows] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert rows[1]["message"] == "TrainingError: the loss is nan at step 3"
    assert "Traceback" in read_record(search, "1")["failed"]["traceback"]
    assert [note.partition(":")[0] for note in notes] == [f"trial {n} ({n + 1} of 3)" for n in range(3)]
    with open(search.folder / "trials.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["message"] for row in table] == ["", "TrainingError: the loss is nan at step 3", ""]
    scored = [row for row in rows if row["status"] == "COMPLETED"]
    winner = max(scored, key=lambda row: row["val_video_auc"])
    assert best["score"]["value"] == winner["val_video_auc"]
    low, high = best["score"]["interval"]
    assert 0 <= low <= best["score"]["value"] <= high <= 1
    assert best["settings"]["learning_rate"] == winner["learning_rate"]
    assert set(best["settings"]) == {"learning_rate", "arguments.dropout", "augment", "momentum"}
    assert json.loads((search.folder / "best.json").read_text()) == best
    run = json.loads((search.folder / "trials" / winner["trial"] / "run.json").read_text())
    assert run["recipe"] == best["searched_with"]
    assert run["result"]["val_video_auc"] == winner["val_video_auc"]

    # TensorBoard's page of hyper-parameters.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for row in rows:
        events = EventAccumulator(str(search.folder / "tensorboard" / row["trial"])).Reload()
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        values = HParamsPluginData.FromString(content).session_start_info.hparams
        assert values["learning_rate"].number_value == row["learning_rate"]
        assert values["augment"].string_value == row["augment"]
        assert ("val_video_auc" in events.Tags()["tensors"]) == (row["status"] == "COMPLETED")

    # The same again repeats nothing; a longer one goes on.
    before = os.stat(search.folder / "trials" / "0" / "run.json").st_mtime_ns
    longer = search_in(search.folder, faces, max_trials=4)
    rows, _ = run_alone(longer, "", Silent, notes.append, fails([], None))
    assert [row["status"] for row in rows] == ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"]
    assert os.stat(search.folder / "trials" / "0" / "run.json").st_mtime_ns == before
    (tmp_path / "link").symlink_to(faces)
    again = search_in(search.folder, os.path.relpath(tmp_path / "link"), max_trials=4)
    assert run_alone(again, "", Silent, notes.append, fails([], None))[0] == rows
    with pytest.raises(ValueError, match="was started with other settings: .*seed was 0, now 5"):
        run_alone(search_in(search.folder, faces, seed=5), "", Silent, notes.append)


def test_the_table_is_written_while_trials_come_and_go(faces, tmp_path):
    search = search_in(tmp_path / "search", faces, max_trials=40)
    (search.folder / "trials").mkdir()
    oracle = oracle_in(search.folder, max_trials=40)
    worker = threading.Thread(target=run_trials, args=(None, oracle, "worker-1", lambda *_: None))
    worker.start()
    while worker.is_alive():
        assert {row["status"] for row in outcome.write_trials(search, oracle)} <= {"RUNNING", "FAILED"}
    worker.join()
    assert [row["status"] for row in outcome.write_trials(search, oracle)] == ["FAILED"] * 40


def test_a_search_in_which_all_fails_has_no_best(faces, tmp_path):
    search = search_in(tmp_path / "search", faces, max_trials=2)
    rows, best = run_alone(search, "", Silent, print, fails(["0", "1"], MemoryError("no room")))
    assert [row["message"] for row in rows] == ["MemoryError: no room"] * 2
    assert best is None
    assert not (search.folder / "best.json").exists()


@pytest.mark.parametrize("kind", ["imagenet", "clip"])
def test_a_file_of_published_weights_is_no_setting_for_others(faces, tmp_path, kind):
    weights = f"weights={kind}:/here/only.h5"
    search = search_in(tmp_path, faces, settings=("limit=20", "precision=float32"))
    search = replace(search, changed=(weights, *search.changed))
    recipe = search.recipe.changed([weights, "learning_rate=0.002"])
    assert outcome.settings_of(search, recipe, ["learning_rate=0.002"]) == {
        "weights": kind,
        "precision": "float32",
        "learning_rate": 0.002,
    }


def test_a_full_disk_ends_the_search_and_fails_no_trial(faces, tmp_path):
    search = search_in(tmp_path / "search", faces, max_trials=2)
    full = OSError(28, "No space left on device")
    wrapped = TrainingError(f"state.safetensors could not be written: {full}")
    wrapped.__cause__ = full
    for error in (full, wrapped):
        with pytest.raises(type(error), match="No space left"):
            run_alone(search, "", Silent, print, fails(["1"], error))
    assert read_record(search, "1") | {"assignments": []} == {
        "assignments": [], "begun": 0, "epochs": 0, "oom_kills": oom_kills(), "oom_deaths": 0, "failed": None,
    }  # fmt: skip
    rows, _ = run_alone(search, "", Silent, print)
    assert [row["status"] for row in rows] == ["COMPLETED"] * 2


@pytest.mark.parametrize("is_memory", [False, True])
def test_a_trial_that_always_ends_its_process_fails_in_the_end(faces, tmp_path, monkeypatch, is_memory):
    """Early if the system kills it for lack of memory; the command may be killed twenty times for other reasons."""
    search = search_in(tmp_path / "search", faces)
    (search.folder / "trials").mkdir()
    values = ["learning_rate=0.001"]

    class Killed(BaseException):
        """Nothing that a process could answer, like SIGKILL."""

    def dies(*arguments):
        raise Killed

    kills = 7
    monkeypatch.setattr("tfdfd.tuning.search.oom_kills", lambda: kills)
    for deaths in range(MOST_OOM_DEATHS if is_memory else MOST_DEATHS):
        kills += is_memory
        with pytest.raises(Killed):
            run_trial(search, "0", values, Silent, dies)
        # A process that is killed undoes nothing.
        record = search.folder / "trials" / "0.json"
        record.write_text(json.dumps(read_record(search, "0") | {"begun": deaths + 1}))
    kills += is_memory
    assert run_trial(search, "0", values, Silent, dies) is None
    words = "3 times after 0 epochs for lack of memory" if is_memory else "died 30 times after 0 epochs"
    assert words in read_record(search, "0")["failed"]["error"]


def test_a_training_without_a_score_fails(faces, tmp_path):
    search = search_in(tmp_path / "search", faces)
    (search.folder / "trials").mkdir()
    for trial, result in (("0", {}), ("1", {"val_video_auc": float("nan")})):
        assert run_trial(search, trial, [], Silent, lambda *_, result=result: result) is None
        assert "ended with val_video_auc=" in read_record(search, trial)["failed"]["error"]


def test_what_the_user_sets_is_not_searched(faces, tmp_path):
    search = search_in(tmp_path, faces, settings=("augment=s1", "arguments.dropout=0.3"))
    assert [setting.key for setting in search.space.search] == ["learning_rate", "momentum"]
    assert (search.recipe.augment, search.recipe.arguments) == ("s1", {"dropout": 0.3})
    assert search.recipe.monitor == search.objective == "val_video_auc"
    with pytest.raises(ValueError, match="all settings of the space of meso4 are fixed"):
        keys = ("augment=s1", "arguments.dropout=0.3", "learning_rate=0.1", "momentum=0.9")
        search_in(tmp_path, faces, settings=keys)
    with pytest.raises(ValueError, match="no setting 'augmen'"):
        search_in(tmp_path, faces, settings=("augmen=s1",))


def test_pictures_are_judged_one_by_one(tmp_path):
    make_faces(tmp_path / "faces", videos=48, frames=1)
    assert search_in(tmp_path / "search", tmp_path / "faces").objective == "val_auc"


def test_roles_by_kerastuners_variables(monkeypatch):
    assert role(None) == ALONE
    assert role(0) == role(2) == CHIEF
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "10.0.0.1")
    with pytest.raises(ValueError, match="KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_PORT is not set"):
        role(None)
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "8000")
    assert role(None) == role(2) == CHIEF
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "tuner3")
    assert role(None) == WORKER
    with pytest.raises(ValueError, match="a worker has no --workers"):
        role(2)
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "http")
    with pytest.raises(ValueError, match="must be a number; received 'http'"):
        role(None)


def test_without_keras_tuner(faces, tmp_path, monkeypatch):
    search = search_in(tmp_path / "search", faces)
    monkeypatch.setitem(sys.modules, "keras_tuner", None)
    with pytest.raises(ValueError, match=r"pip install 'tfdfd\[tune\]'"):
        run_alone(search, "", Silent, print)


def crew_of(code, folder):
    return Crew([sys.executable, "-c", code], 1, folder / "workers", lambda text: None)


def test_a_worker_that_cannot_work_ends_the_search(tmp_path):
    oracle = oracle_in(tmp_path)
    with pytest.raises(SearchError, match=r"worker-1 ended with an error; .*worker-1.log says: no data here"):
        Chief(oracle).serve(crew_of("import sys; sys.exit('no data here')", tmp_path), print)


def test_workers_that_are_always_killed_end_the_search(tmp_path):
    code = "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(SearchError, match="3 workers were killed before they had a trial"):
        Chief(oracle_in(tmp_path)).serve(crew_of(code, tmp_path), print)


def test_an_oracle_that_fails_ends_the_search(tmp_path, monkeypatch):
    oracle = oracle_in(tmp_path)
    monkeypatch.setattr(oracle, "populate_space", lambda trial_id: 1 / 0)
    server = Chief(oracle)
    # What a worker asks, from a process of its own.
    code = f"""
import grpc
from keras_tuner.src import protos
stub = protos.get_service_grpc().OracleStub(grpc.insecure_channel("127.0.0.1:{server.port}"))
try:
    stub.CreateTrial(protos.get_service().CreateTrialRequest(tuner_id="worker-1"), timeout=60)
except grpc.RpcError:
    import time
    time.sleep(600)
"""
    with pytest.raises(SearchError, match="the chief failed: ZeroDivisionError"):
        server.serve(crew_of(code, tmp_path), print)


def test_an_address_that_cannot_be_had(tmp_path):
    oracle = oracle_in(tmp_path)
    with pytest.raises(SearchError, match=r"cannot listen on 192.0.2.1:8000"):
        Chief(oracle, "192.0.2.1", 8000)


def test_a_silent_worker_of_this_machine_is_killed(tmp_path, monkeypatch):
    oracle, notes = oracle_in(tmp_path), []
    crew = Crew([sys.executable, "-c", "import time; time.sleep(600)"], 1, tmp_path / "workers", notes.append)
    crew.look_after(oracle, "127.0.0.1", 1)
    oracle.create_trial("worker-1")
    monkeypatch.setattr(oracles, "LOST_AFTER", 0.01)
    time.sleep(0.05)
    crew.look_after(oracle, "127.0.0.1", 1)
    crew.dismiss()
    assert not oracle.ongoing_trials
    assert oracle.create_trial("worker-2").trial_id == "0"
    assert notes == [
        "worker-1 sent no heartbeat for 0 s at trial 0; killed",
        "worker-1 died (signal 9) at trial 0, which goes on with another",
    ]


def tune(space_file, faces, folder, *words, trials=4, epochs=12):
    command = [sys.executable, "-m", "tfdfd", "tune", space_file, "--data", faces, "-o", folder, "--quick"]
    return [str(word) for word in [*command, "--max-trials", trials, "--seed", 3, "--set", f"epochs={epochs}", *words]]


def until(check, seconds=120):
    """What `check` gives, as soon as it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come to that")


def under_way(folder):
    """A trial that has an epoch behind it, but not its end."""
    for trial in sorted((folder / "trials").glob("?")):
        log, run = trial / "log.csv", trial / "run.json"
        if log.exists() and not json.loads(run.read_text())["finished"]:
            return trial.name
    return None


def worker_at(folder, trial, pid):
    """The process that the oracle's file says is at a trial."""
    state = json.loads((folder / "oracle.json").read_text())
    name = next((name for name, one in state["ongoing_trials"].items() if one == trial), None)
    for process in psutil.Process(pid).children():
        if name and process.environ().get("KERASTUNER_TUNER_ID") == name:
            return process
    return None


@pytest.mark.slow
def test_one_of_two_workers_is_killed_in_mid_trial(space_file, faces, tmp_path):
    folder = tmp_path / "search"
    command = tune(space_file, faces, folder, "--workers", 2)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        trial = until(lambda: under_way(folder))
        victim = worker_at(folder, trial, process.pid)
        victim.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"died (signal 9) at trial {trial}, which goes on with another" in err
    with open(folder / "trials.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["status"]) for row in rows] == [(str(n), "COMPLETED") for n in range(4)]
    assert len(list((folder / "workers").iterdir())) == 3
    # It went on where it was: no epoch is twice in the log, and there are no more trials than were asked for.
    log = (folder / "trials" / trial / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in log[1:]] == [str(epoch) for epoch in range(1, 13)]
    assert sorted(one.name for one in (folder / "trials").glob("?")) == ["0", "1", "2", "3"]
    assert "best val_video_auc" in out
    assert json.loads((folder / "best.json").read_text())["command"].endswith("--workers 2")


def test_a_killed_search_goes_on(space_file, faces, tmp_path, run_tfdfd):
    folder, few = tmp_path / "search", {"trials": 2, "epochs": 3}
    with subprocess.Popen(tune(space_file, faces, folder, **few), stderr=subprocess.DEVNULL) as process:
        until(lambda: (folder / "trials" / "1" / "log.csv").exists())
        process.kill()
    assert process.returncode == -signal.SIGKILL
    before = (folder / "trials" / "0" / "run.json").stat().st_mtime_ns
    words = tune(space_file, faces, folder, "--quiet", **few)[3:]
    code, out, err = run_tfdfd(*words)
    assert code == 0, err
    assert err == ""
    assert (folder / "trials" / "0" / "run.json").stat().st_mtime_ns == before
    assert len(out.splitlines()) == 1 + 2 + 2

    # What was found is what a training takes, by the command at the end.
    words = ["tfdfd", "train", "s1-meso4", "--config", folder / "best.json", "--data", faces, "-o", f"{folder}-best"]
    assert shlex.split(out.splitlines()[-1]) == list(map(str, words))
    found = json.loads((folder / "best.json").read_text())["settings"]
    run = tmp_path / "run"
    best = ["--config", folder / "best.json", "--quick", "--quiet"]
    code, _, err = run_tfdfd("train", "s1-meso4", "--data", faces, "-o", run, *best)
    assert code == 0, err
    assert json.loads((run / "run.json").read_text())["recipe"]["learning_rate"] == found["learning_rate"]
    code, _, err = run_tfdfd("train", "s1-meso-inception4", "--data", faces, "-o", tmp_path / "other", *best)
    assert code == 2
    assert "has settings for meso4; s1-meso-inception4 trains meso_inception4" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["meso5"], "no network is known as 'meso5'"),
        (["meso4", "--tuner", "randm"], "did you mean random"),
        (["meso4", "--workers", "-1"], "--workers must be at least 0; received -1"),
        (["meso4", "--max-trials", "0"], "a search needs at least one trial; received max_trials=0"),
        (["meso4", "--seed", "-1"], "--seed must be at least 0"),
        (["meso4", "--set", "epoch=3"], "did you mean epochs"),
        (["meso4", "--set", "data=crops", "--data", "nowhere"], "nowhere holds no face crops"),
    ],
)
def test_wrong_usage(words, message, faces, tmp_path, run_tfdfd):
    folder = tmp_path / "search"
    data = [] if "--data" in words else ["--data", faces]
    code, _, err = run_tfdfd("tune", *words, *data, "-o", folder)
    assert code == 2
    assert message in err
    assert not folder.exists()


def test_a_set_that_leaks_is_refused_before_anything(space_file, tmp_path, run_tfdfd):
    from tfdfd.data.tables import FaceRow, write_table

    rows = make_faces(tmp_path / "faces", videos=12)
    shared = [replace(row, source_id=("one",)) for row in rows]
    write_table(tmp_path / "faces" / "faces.csv", shared, FaceRow)
    folder = tmp_path / "search"
    code, _, err = run_tfdfd("tune", space_file, "--data", tmp_path / "faces", "-o", folder, "--quick")
    assert code == 2
    assert "one" in err
    assert not folder.exists()


def test_a_folder_with_something_else(space_file, faces, tmp_path, run_tfdfd):
    (tmp_path / "thesis.txt").write_text("mine")
    code, _, err = run_tfdfd("tune", space_file, "--data", faces, "-o", tmp_path, "--quick")
    assert code == 2
    assert "is not empty and holds no search" in err
    assert Path(tmp_path / "thesis.txt").read_text() == "mine"
