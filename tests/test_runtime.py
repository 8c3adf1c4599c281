"""The runtimes score alike, a conversion is proved before it is kept, and nothing but our own is ever parsed."""

import json
import os
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tfdfd import files
from tfdfd import runtime as names
from tfdfd.detect.detector import Detector
from tfdfd.models import build, load
from tfdfd.runtime import opening
from tfdfd.runtime.network import KerasNetwork, Scorer
from tfdfd.runtime.opening import TOLERANCE, open_network, proof_crops
from tfdfd.weights.store import locate

DEFAULT = "tfdfd/meso_inception4"
needs_openvino = pytest.mark.skipif(not names.is_installed("openvino"), reason="pip install 'tfdfd[edge]'")
posix = pytest.mark.skipif(os.name != "posix", reason="owners and rights of POSIX")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Conversions of these tests are kept here, never in the user's own folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDFD_CACHE", str(folder))
        yield folder


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    folder = tmp_path / "empty"
    monkeypatch.setenv("TFDFD_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def crops():
    """20 crops, the last ones dark to bright: more than two batches, and no multiple of one."""
    flat = np.stack([np.full((256, 256, 3), level, np.uint8) for level in (0, 85, 170, 255)])
    return np.concatenate([proof_crops(256, 16), flat])


@pytest.fixture(scope="module", params=["meso4", "meso_inception4"])
def located(request, toy_weights):
    return locate(toy_weights if request.param == "meso4" else DEFAULT)


def conversions(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def fresh(code, *words, **environment):
    """Python code in a process of its own; its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_openvino
class TestScores:
    def test_are_those_of_keras_in_batches_of_any_size(self, located, crops):
        network, note = open_network(*located, "openvino")
        assert (network.runtime, network.size, note) == ("openvino", 256, None)
        expected = KerasNetwork(load(*located))(crops[:8])
        assert np.ptp(expected) > 0.005  # or everything would be equal to everything
        expected = Scorer(load(*located))(crops)
        for count in (1, 2, 3, 7, 8, 9, 20):
            scores = Scorer(network)(crops[:count])
            assert scores.dtype == np.float32 and scores.shape == (count,)
            # Far under the tolerance: float32 all the way, not bfloat16.
            np.testing.assert_allclose(scores, expected[:count], atol=1e-5)
        assert len(Scorer(network)(crops[:0])) == 0

    @pytest.mark.parametrize("weights", [DEFAULT, "Meso4_DF.h5", "Meso4_F2F.h5", "MesoInception_DF.h5"])
    def test_are_those_of_keras_on_real_faces(self, data, weights):
        import cv2

        paths = sorted((data / "crops").rglob("*.png"))
        assert len(paths) > 20
        faces = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
        faces = np.stack([cv2.resize(face, (256, 256)) for face in faces])
        located = locate(weights if weights == DEFAULT else data / "mesonet" / "weights" / weights)
        expected = Scorer(load(*located))(faces)
        assert np.ptp(expected) > 0.1
        scores = Scorer(open_network(*located, "openvino")[0])(faces)
        np.testing.assert_allclose(scores, expected, atol=TOLERANCE, rtol=0)

    def test_do_not_change_from_one_start_to_the_next(self, located, crops):
        first, second = (Scorer(open_network(*located, "openvino")[0])(crops) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_of_several_threads_do_not_mix(self, crops):
        scorer = Scorer(open_network(*locate(DEFAULT), "openvino")[0])
        expected, found = scorer(crops), {}

        def score(number):
            found[number] = scorer(crops[number:])

        threads = [threading.Thread(target=score, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(6):
            np.testing.assert_allclose(found[number], expected[number:], atol=1e-6)

    def test_of_a_folder_are_the_same_document_on_both_but_for_the_last_digits(self, astronaut, tmp_path):
        import cv2

        for number in range(3):
            cv2.imwrite(str(tmp_path / f"{number}.png"), astronaut[: 300 + 50 * number, :400, ::-1])
        documents = []
        for runtime in names.RUNTIMES:
            with Detector(detector="haar", runtime=runtime, workers=1) as detector:
                document = detector.to_json(detector.detect_many([tmp_path]))
                assert detector.runtime_note is None
            documents.append(
                [(r["path"], r["status"], r["verdict"], r["fake_probability"]) for r in document["results"]]
            )
            assert set(document["model"]) == {"handle", "sha256", "threshold"}
        for ours, theirs in zip(*documents, strict=True):
            assert ours[:3] == theirs[:3]
            assert ours[3] == pytest.approx(theirs[3], abs=TOLERANCE)


@needs_openvino
class TestConversion:
    def test_is_made_once_and_then_needs_neither_tensorflow_nor_keras(self, empty_cache):
        code = """
import sys
import numpy as np
from tfdfd.runtime.network import Scorer
from tfdfd.runtime.opening import open_network, proof_crops
from tfdfd.weights.store import locate
print(Scorer(open_network(*locate(sys.argv[1]))[0])(proof_crops(256)).tolist())
print([name for name in ("tensorflow", "keras") if name in sys.modules])
"""
        before, loaded = fresh(code, DEFAULT).splitlines()
        assert loaded == "['tensorflow', 'keras']"
        (file,) = conversions(empty_cache)
        after, loaded = fresh(code, DEFAULT).splitlines()
        assert (after, loaded) == (before, "[]")
        assert conversions(empty_cache) == [file]

    @pytest.mark.parametrize("what", ["weights", "polarity", "card", "code", "version", "openvino", "keras"])
    def test_is_not_found_by_what_it_was_not_made_from(self, monkeypatch, tmp_path, what):
        record = locate(DEFAULT)[0]
        name = opening.conversion_name(record)
        assert name == opening.conversion_name(record)
        if what == "weights":
            record = replace(record, sha256="0" * 64)
        elif what == "polarity":
            record = replace(record, polarity="real=1")
        elif what == "card":
            record = replace(record, facts=record.card | {"threshold": 0.1})
        elif what == "code":
            for part in ("models", "runtime", "weights"):
                (tmp_path / part).mkdir()
                for path in (files.PACKAGE / part).glob("*.py"):
                    (tmp_path / part / path.name).write_bytes(path.read_bytes())
            monkeypatch.setattr(files, "PACKAGE", tmp_path)
            assert opening.conversion_name(record) == name
            with (tmp_path / "models" / "meso.py").open("a") as file:
                file.write("# another network\n")
        elif what == "version":
            monkeypatch.setattr(opening, "__version__", "0.0.0")
        elif what == "openvino":
            monkeypatch.setattr(opening, "identity", lambda: ["2025.0.0", "another processor"])
        else:
            monkeypatch.setattr(opening, "_version", lambda _: "0.0.0")
        assert opening.conversion_name(record) != name

    @pytest.mark.parametrize(
        "damage", ["a bit", *(pytest.param(d, marks=pytest.mark.slow) for d in ("the end", "everything", "a folder"))]
    )
    def test_that_is_damaged_on_disk_is_made_anew(self, empty_cache, crops, damage):
        located = locate(DEFAULT)
        expected = open_network(*located, "openvino")[0](crops[:8])
        file = empty_cache / "runtimes" / opening.conversion_name(located[0])
        whole = file.read_bytes()
        if damage == "a folder":
            file.unlink()
            file.mkdir()
        else:
            middle = len(whole) // 2
            flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
            file.write_bytes({"a bit": flipped, "the end": whole[:-1], "everything": b""}[damage])
        assert opening.fetch_conversion(file.name) is None
        np.testing.assert_array_equal(open_network(*located, "openvino")[0](crops[:8]), expected)
        assert damage == "a folder" or opening.fetch_conversion(file.name) is not None

    def test_is_used_where_it_cannot_be_kept(self, tmp_path, monkeypatch, crops):
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("TFDFD_CACHE", str(tmp_path / "file" / "cache"))
        network, note = open_network(*locate(DEFAULT))
        assert (network.runtime, note) == ("openvino", None)
        assert np.isfinite(network(crops[:8])).all()
        assert conversions(tmp_path) == ["file"]

    def test_that_scores_otherwise_is_neither_used_nor_kept(self, empty_cache, monkeypatch, crops):
        record, path = locate(DEFAULT)
        other = build("meso_inception4")
        genuine = opening.convert
        monkeypatch.setattr(opening, "convert", lambda _: genuine(other))
        network, note = open_network(record, path)
        assert network.runtime == "tensorflow"
        assert "on the same crops; 0.0001 is allowed" in note
        np.testing.assert_array_equal(network(crops[:8]), KerasNetwork(load(record, path))(crops[:8]))
        with pytest.raises(ValueError, match="0.0001 is allowed; use the runtime 'tensorflow'"):
            open_network(record, path, "openvino")
        assert conversions(empty_cache) == []

    def test_of_a_network_that_calls_everything_alike_would_prove_nothing(self, monkeypatch, empty_cache):
        model = build("meso4")
        model.get_layer("fake_probability").set_weights([np.zeros((16, 1)), np.ones(1)])
        monkeypatch.setattr(opening, "load", lambda *_: model)
        network, note = open_network(*locate(DEFAULT))
        assert (network.runtime, conversions(empty_cache)) == ("tensorflow", [])
        assert "crops get the same answer" in note

    def test_of_a_damaged_network_is_no_conversion(self, monkeypatch, empty_cache):
        model = build("meso4")
        model.get_layer("fake_probability").set_weights([np.full((16, 1), np.nan), np.zeros(1)])
        monkeypatch.setattr(opening, "load", lambda *_: model)
        network, note = open_network(*locate(DEFAULT))
        assert (network.runtime, conversions(empty_cache)) == ("tensorflow", [])
        assert "values are not finite" in note

    def test_that_fails_is_told_and_tensorflow_scores(self, empty_cache, monkeypatch, run_tfdfd, astronaut, tmp_path):
        import cv2

        def failing(_):
            raise RuntimeError("an operation that OpenVINO lacks")

        monkeypatch.setattr(opening, "convert", failing)
        cv2.imwrite(str(tmp_path / "crop.png"), astronaut[:256, 96:352, ::-1])
        words = "detect", tmp_path / "crop.png", "--detector", "none", "--model", DEFAULT, "--quiet"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            code, stdout, stderr = run_tfdfd(*words)
        assert code == 0 and "1 face" in stdout
        told = "openvino cannot run tfdfd/meso_inception4: an operation that OpenVINO lacks; tensorflow did.\n"
        assert stderr == told
        code, stdout, stderr = run_tfdfd(*words, "--runtime", "openvino")
        assert (code, stdout) == (2, "")
        assert "an operation that OpenVINO lacks; use the runtime 'tensorflow'" in stderr
        with Detector(detector="none") as detector, pytest.warns(RuntimeWarning, match="OpenVINO lacks"):
            detector.detect(tmp_path / "crop.png")

    def test_of_weights_that_do_not_fit_is_an_error_on_any_runtime(self, empty_cache):
        record, path = locate(DEFAULT)
        for runtime in (names.AUTO, *names.RUNTIMES):
            with pytest.raises(ValueError, match="does not fit the network meso4"):
                open_network(replace(record, model="meso4"), path, runtime)


class TestKept:
    def test_what_is_kept_is_fetched(self, empty_cache):
        assert opening.fetch_conversion("a") is None
        opening.store_conversion("a", b"graph", b"\0weights")
        assert opening.fetch_conversion("a") == (b"graph", b"\0weights")
        assert conversions(empty_cache) == ["a"]

    @posix
    def test_what_others_could_have_written_is_not_ours(self, empty_cache, monkeypatch):
        opening.store_conversion("a", b"graph", b"weights")
        file = opening.conversion_path("a")
        file.chmod(0o666)
        assert opening.fetch_conversion("a") is None
        file.chmod(0o644)
        assert opening.fetch_conversion("a") is not None
        owner = file.stat().st_uid
        monkeypatch.setattr(opening.os, "geteuid", lambda: owner + 1)
        assert (opening.fetch_conversion("a") is None) == (owner != 0)

    def test_readers_see_one_or_the_other_of_two_writers_and_never_a_mixture(self, empty_cache):
        contents = [(bytes([n]) * 100_000, bytes([n]) * 300_000) for n in range(2)]
        opening.store_conversion("a", *contents[0])
        seen = []

        def write(content):
            for _ in range(30):
                opening.store_conversion("a", *content)

        def read():
            for _ in range(100):
                seen.append(opening.fetch_conversion("a"))

        threads = [threading.Thread(target=write, args=(content,)) for content in contents]
        threads += [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 200 and all(pair in contents for pair in seen)
        assert conversions(empty_cache) == ["a"]


class TestChoice:
    def test_without_openvino_tensorflow_scores_and_nothing_is_said(self, monkeypatch, toy_weights):
        monkeypatch.setattr(opening, "is_installed", lambda _: False)
        network, note = open_network(*locate(toy_weights))
        assert (network.runtime, note) == ("tensorflow", None)

    def test_openvino_asked_for_and_absent_names_the_extra_before_any_work(self, monkeypatch, run_tfdfd):
        monkeypatch.setattr(names, "is_installed", lambda _: False)
        with pytest.raises(ValueError, match=r"pip install 'tfdfd\[edge\]'"):
            Detector(runtime="openvino")
        code, stdout, stderr = run_tfdfd("detect", "a.png", "--runtime", "openvino")
        assert (code, stdout) == (2, "") and "tfdfd[edge]" in stderr

    def test_an_unknown_runtime_is_answered_with_the_known(self, run_tfdfd):
        with pytest.raises(ValueError, match="auto, openvino, tensorflow; received 'openvno'.* mean openvino"):
            Detector(runtime="openvno")
        code, _, stderr = run_tfdfd("detect", "a.png", "--runtime", "tensrflow")
        assert code == 2 and "did you mean tensorflow" in stderr

    def test_finding_out_what_is_installed_imports_nothing(self):
        code = """
import sys
from tfdfd import Detector
Detector().close()
print([name for name in ("tensorflow", "keras", "openvino") if name in sys.modules])
"""
        assert fresh(code) == "[]\n"


@needs_openvino
class TestOpenvino:
    def test_reports_to_nobody(self, tmp_path):
        """Its import would write an identifier into the home folder, and send events with it."""
        code = """
import sys
from tfdfd.runtime.openvino import identity
identity()
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""
        quiet = dict.fromkeys(("CI", "TF_BUILD", "JENKINS_URL"), "")  # where it is off by itself
        assert fresh(code, HOME=str(tmp_path), USERPROFILE=str(tmp_path), **quiet) == "[]\n"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity as on Linux")
    def test_keeps_to_the_cores_of_the_process(self, cache):
        open_network(*locate(DEFAULT))
        code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from tfdfd.runtime.opening import open_network, proof_crops
from tfdfd.weights.store import locate
network, _ = open_network(*locate("tfdfd/meso_inception4"))
network(proof_crops(256))
print(network.runtime, network._requests[8].get_compiled_model().get_property("INFERENCE_NUM_THREADS"))
"""
        assert fresh(code) == "openvino 1\n"


@needs_openvino
class TestSinking:
    """Concatenations move behind what works channel by channel, and nowhere else."""

    SHAPES = ([1, 2, 8, 8], [1, 3, 8, 8])

    def graph(self, steps, axis=1):
        """A model of two inputs joined, with `steps(opset, joined) -> outputs` after them."""
        from tfdfd.runtime.openvino import import_openvino

        openvino = import_openvino()
        ops = openvino.opset14
        inputs = [ops.parameter(shape, np.float32) for shape in self.SHAPES]
        if axis != 1:
            inputs = [ops.parameter([1, 5, 4, 8], np.float32) for _ in range(2)]
        outputs = steps(ops, ops.concat(inputs, axis))
        return openvino.Model([ops.result(output) for output in outputs], inputs)

    def sunk(self, graph):
        """The kinds of nodes before the results, after sinking; the numbers must be those of before."""
        from tfdfd.runtime.openvino import import_openvino, sink_concatenations

        openvino = import_openvino()
        draw = np.random.default_rng(0)
        given = [draw.normal(size=list(i.shape)).astype(np.float32) for i in graph.inputs]
        exact = {openvino.properties.hint.inference_precision: openvino.Type.f32}
        run = lambda: list(openvino.Core().compile_model(graph, "CPU", exact)(given).values())  # noqa: E731
        before = run()
        sink_concatenations(graph)
        for old, new in zip(before, run(), strict=True):
            np.testing.assert_allclose(new, old, atol=1e-6)
        return [result.input_value(0).get_node().get_type_name() for result in graph.get_results()]

    @staticmethod
    def normalise(ops, x):
        values = np.arange(1, 6, dtype=np.float32).reshape(1, 5, 1, 1)
        return ops.add(ops.constant(values), ops.multiply(x, ops.constant(-values)))

    @staticmethod
    def pool(ops, x):
        return ops.max_pool(x, [2, 2], [1, 1], [0, 0], [1, 1], [3, 3], "floor", "explicit")

    def test_normalisation_and_pooling_come_first(self):
        steps = lambda ops, x: [self.pool(ops, self.normalise(ops, x)).output(0)]  # noqa: E731
        assert self.sunk(self.graph(steps)) == ["Concat"]

    @pytest.mark.parametrize("case", ["two consumers", "positions wanted", "another axis", "not by channel", "itself"])
    def test_what_needs_all_channels_stays_behind(self, case):
        values = np.ones((1, 1, 8, 8), np.float32)
        steps, axis, last = {
            "two consumers": (lambda ops, x: [self.normalise(ops, x), ops.relu(x)], 1, ["Add", "Relu"]),
            "positions wanted": (lambda ops, x: self.pool(ops, x).outputs(), 1, ["MaxPool", "MaxPool"]),
            "another axis": (lambda ops, x: [self.normalise(ops, x)], 2, ["Add"]),
            "not by channel": (lambda ops, x: [ops.multiply(x, ops.constant(values))], 1, ["Multiply"]),
            "itself": (lambda ops, x: [ops.multiply(x, x)], 1, ["Multiply"]),
        }[case]
        assert self.sunk(self.graph(steps, axis)) == last


@needs_openvino
@pytest.mark.slow
def test_two_processes_convert_at_once(empty_cache):
    code = "import sys; from tfdfd.cli.main import main; sys.exit(main(sys.argv[1:]))"
    sample = Path(files.PACKAGE) / "samples" / "genuine.mp4"
    words = [sys.executable, "-c", code, "detect", str(sample), "--json", "-", "--quiet", "--runtime", "openvino"]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(process.communicate(timeout=120)[0])["results"][0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0]["fake_probability"] == answers[1]["fake_probability"]
    assert len(conversions(empty_cache)) == 1
