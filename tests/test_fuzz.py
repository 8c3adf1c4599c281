"""A seed run of the fuzzer, and every input that it once broke something with. `make bench` fuzzes for minutes."""

import json
import tempfile
from random import Random

import pytest

from benchmarks import fuzz

# Targets whose inputs take milliseconds get fewer of them.
INPUTS = dict.fromkeys(fuzz.TARGETS, 300) | {"media": 60, "detect": 2, "hdf5": 20, "safetensors": 40, "settings": 60}
CARD = {"handle": "tfdfd/meso4.toy", "model": "meso4", "file": "toy.weights.h5", "bytes": 1, "sha256": "0" * 64}
CARD |= {"licence": "none", "training_data": "none", "polarity": "fake=1", "threshold": 0.5}
TAIL = {"domain": "a", "n": 9, "n_above": 2, "highest": [0.9, 0.8], "mean_excess": 10**400}
DEEP = b"[" * 100_000
SPACE = {"network": "meso4", "recipe": "s1-meso4", "search": {"augment": {"choices": [None]}}}
FOUND = [
    ("cards", DEEP),
    ("cards", CARD | {"bytes": {}}),
    ("cards", CARD | {"bytes": None}),
    ("cards", CARD | {"inconclusive_band": 0}),
    ("cards", CARD | {"genuine_tails": [TAIL]}),
    ("settings", DEEP),
    ("settings", {"recipe": "s1-meso4", "result": None, "data": {}}),
    ("settings", {"network": "meso4", "settings": {"members": [[]]}}),
    ("settings", SPACE | {"recipe": {}}),
    ("settings", SPACE | {"network": {}}),
    ("rest", {"inputs": [{"name": {}}]}),
]


def damaged_heap(data):
    """An HDF5 file in which the free list of the first heap of names starts outside of the heap."""
    at = data.index(b"HEAP") + 16
    return data[:at] + (2**40).to_bytes(8, "little") + data[at + 8 :]


@pytest.fixture(scope="module", params=fuzz.TARGETS)
def target(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("fuzz")))
        target = fuzz.TARGETS[request.param]()
        yield request.param, target
        target.close()


def test_mutated_inputs_are_accepted_or_refused(target, tmp_path):
    name, target = target
    fuzzer = fuzz.Fuzzer(target, tmp_path)
    left = iter(range(INPUTS[name]))
    fuzz.run_inputs(fuzzer, Random(0), lambda: next(left, None) is None)
    for found, case in FOUND:
        if found == name:
            fuzzer(case if isinstance(case, bytes) else json.dumps(case).encode())
    if name == "hdf5":
        fuzzer(damaged_heap(target.seeds[0]))
    assert not fuzzer.findings
    # The seeds are valid, and the edits reach what refuses them.
    assert len(target.seeds) <= fuzzer.accepted + (name == "safetensors") < fuzzer.inputs


def test_a_fault_is_found_and_its_input_is_kept(tmp_path):
    def read(data):
        if b"1" in data:
            raise KeyError("an error that no reader documents")
        if len(data) > 9:
            raise ValueError("refused")

    fuzzer = fuzz.Fuzzer(fuzz.Target([b'{"a": 1}'], read), tmp_path)
    left = iter(range(50))
    fuzz.run_inputs(fuzzer, Random(0), lambda: next(left, None) is None)
    assert list(fuzzer.findings) == ["KeyError at elsewhere"]
    assert b"1" in next(tmp_path.glob("case-*")).read_bytes()
    assert 0 < fuzzer.accepted < fuzzer.inputs == 51
