"""The deployment files of `tf_serving/`: parsed by what they are for, and in agreement with one another."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.fake_serving import Script, rest_server
from tf_serving.client_grpc import OPTIONS, RETRIES
from tf_serving.models_config import main as write_models_config
from tf_serving.models_config import models_config
from tfdfd.models import list_models

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tf_serving"
HUB = ROOT / "saved_models"
KUBERNETES = sorted((FOLDER / "kubernetes").glob("*.yaml"))
KUBERNETES_VERSION = "1.31.0"

FIELD = descriptor_pb2.FieldDescriptorProto
# The package tensorflow-serving-api holds ModelServerConfig alone of the four. The others are made here of what
# TensorFlow Serving defines in servables/tensorflow/session_bundle_config.proto, config/monitoring_config.proto and
# config/ssl_config.proto; wrapped values are messages with one field, `value`.
DEFINITIONS = {
    "Int64Value": {"value": (1, "int64")},
    "StringValue": {"value": (1, "string")},
    "BatchingParameters": {
        "max_batch_size": (1, "Int64Value"),
        "batch_timeout_micros": (2, "Int64Value"),
        "max_enqueued_batches": (3, "Int64Value"),
        "num_batch_threads": (4, "Int64Value"),
        "thread_pool_name": (5, "StringValue"),
        "allowed_batch_sizes": (6, "repeated int64"),
        "pad_variable_length_inputs": (7, "bool"),
    },
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
    "SSLConfig": {
        "server_key": (1, "string"),
        "server_cert": (2, "string"),
        "custom_ca": (3, "string"),
        "client_verify": (4, "bool"),
    },
}


@pytest.fixture(scope="module")
def messages():
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", package="serving", syntax="proto3")
    for name, fields in DEFINITIONS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = FIELD.LABEL_REPEATED if kind.startswith("repeated") else FIELD.LABEL_OPTIONAL
            scalar = getattr(FIELD, f"TYPE_{kind.split()[-1].upper()}", None)
            added = message.field.add(name=field, number=number, label=label, type=scalar or FIELD.TYPE_MESSAGE)
            if scalar is None:
                added.type_name = f".serving.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"serving.{name}")) for name in DEFINITIONS
    }


def parsed(text, message):
    return text_format.Parse(text, message)


def models_of(text):
    return parsed(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config


@pytest.fixture(scope="module")
def configs():
    return models_of((FOLDER / "models.config").read_text())


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((FOLDER / "docker-compose.yml").read_text())["services"]["serving"]


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@pytest.fixture(scope="module")
def kinds():
    """Kubernetes objects by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for path in KUBERNETES for one in documents(path)}


@pytest.fixture(scope="module")
def deployment(kinds):
    return kinds["Deployment", "tfdfd-serving"]


@pytest.fixture(scope="module")
def container(deployment):
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


def flags(words):
    return dict(word.removeprefix("--").split("=", 1) for word in words)


def test_models_are_of_the_list_and_where_the_hub_is_mounted(configs, compose, container):
    mounts = {volume["target"] for volume in compose["volumes"]} & {m["mountPath"] for m in container["volumeMounts"]}
    assert configs
    for config in configs:
        assert config.name.split(".")[0] in list_models()
        assert config.base_path == f"/models/{config.name}" and "/models" in mounts
        assert config.model_platform == "tensorflow"


def test_labels_are_of_versions_that_are_served(configs):
    for config in configs:
        served = set(config.model_version_policy.specific.versions)
        assert set(config.version_labels) == {"stable", "canary"}
        assert all(re.fullmatch("[A-Za-z0-9_]+", label) for label in config.version_labels)
        assert set(config.version_labels.values()) == served


def test_the_models_served_are_those_of_the_hub():
    """Whoever publishes into saved_models/ runs `python -m tf_serving.models_config saved_models`."""
    assert (FOLDER / "models.config").read_text() == models_config(HUB)


@pytest.fixture
def hub(tmp_path):
    for version in ("meso4/1", "meso4/2", "meso4/10", "mobilenet_v1.sbi/3", "meso4/2/feature_vector", "meso4/backup"):
        folder = tmp_path / "hub" / version
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "saved_model.pb").touch()
    (tmp_path / "hub" / "manifest.json").touch()
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ([10], 10, 10)),
        (["--stable", "meso4=1", "--also", "meso4=2"], ([1, 2], 1, 1)),
        (["--stable", "meso4=1", "--canary", "meso4=2"], ([1, 2], 1, 2)),
        (["--also", "meso4=1", "--also", "meso4=2"], ([1, 2, 10], 10, 10)),
        (["--stable", "meso4=2", "--canary", "meso4=10"], ([2, 10], 2, 10)),
        (["--stable", "meso4=2"], ([2], 2, 2)),
    ],
)
def test_several_models_and_a_version_on_trial(hub, capsys, words, expected):
    assert write_models_config([str(hub), *words]) == 0
    meso, mobile = models_of(capsys.readouterr().out)
    assert (meso.name, meso.base_path) == ("meso4", "/models/meso4")
    found = (
        list(meso.model_version_policy.specific.versions),
        meso.version_labels["stable"],
        meso.version_labels["canary"],
    )
    assert found == expected
    assert (mobile.name, dict(mobile.version_labels)) == ("mobilenet_v1.sbi", {"stable": 3, "canary": 3})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stable", "meso4=7"], "no version 7 of meso4; there are 1, 2, 10"),
        (["--also", "meso4=7"], "no version 7 of meso4; there are 1, 2, 10"),
        (["--canary", "meso=1"], "no model meso; there are meso4"),
        (["--stable", "meso4"], "expected MODEL=VERSION"),
    ],
)
def test_what_the_hub_does_not_hold_is_not_served(hub, capsys, words, told):
    with pytest.raises(SystemExit) as stop:
        write_models_config([str(hub), *words])
    assert stop.value.code == 2 and told in capsys.readouterr().err


def test_an_empty_hub_is_none(tmp_path):
    with pytest.raises(ValueError, match="holds no model"):
        models_config(tmp_path)


def test_batches(messages, compose, container):
    batching = parsed((FOLDER / "batching.config").read_text(), messages["BatchingParameters"]())
    sizes = list(batching.allowed_batch_sizes)
    # TensorFlow Serving refuses other lists.
    assert sizes == sorted(set(sizes)) and sizes[-1] == batching.max_batch_size.value
    cores = str(batching.num_batch_threads.value)
    assert compose["deploy"]["resources"]["limits"]["cpus"] == cores == container["resources"]["limits"]["cpu"]
    assert 0 < batching.batch_timeout_micros.value <= 10_000


def test_metrics(messages):
    metrics = parsed((FOLDER / "monitoring.config").read_text(), messages["MonitoringConfig"]())
    assert metrics.prometheus_config.enable
    (monitor,) = documents(FOLDER / "monitoring" / "pod-monitor.yaml")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == metrics.prometheus_config.path and endpoint["port"] == "rest"


def test_the_example_of_tls_is_what_is_read(messages):
    ssl = parsed((FOLDER / "ssl.config.example").read_text(), messages["SSLConfig"]())
    assert ssl.client_verify and "PRIVATE KEY" in ssl.server_key
    assert all("BEGIN CERTIFICATE" in text for text in (ssl.server_cert, ssl.custom_ca))


def test_tls_from_pem_files(messages, tmp_path):
    texts = {}
    for name, kind in (("server_key", "PRIVATE KEY"), ("server_cert", "CERTIFICATE"), ("custom_ca", "CERTIFICATE")):
        texts[name] = f"-----BEGIN {kind}-----\nMIIB/+=\nend\n-----END {kind}-----\n"
        (tmp_path / name).write_text(texts[name].replace("\n", "\r\n" if name == "custom_ca" else "\n"))
    files = [str(tmp_path / name) for name in texts]
    done = subprocess.run(["bash", FOLDER / "ssl_config.sh", *files], capture_output=True, text=True, check=True)
    ssl = parsed(done.stdout, messages["SSLConfig"]())
    assert {name: getattr(ssl, name) for name in texts} == texts and ssl.client_verify
    (tmp_path / "server_key").write_text("not a key")
    assert subprocess.run(["bash", FOLDER / "ssl_config.sh", *files], capture_output=True).returncode == 1
    assert subprocess.run(["bash", FOLDER / "ssl_config.sh"], capture_output=True).returncode == 2


def test_the_container_may_do_nothing_but_serve(compose):
    assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+", compose["image"])
    assert all(volume["read_only"] for volume in compose["volumes"]) and compose["read_only"]
    assert all(port.startswith("127.0.0.1:") for port in compose["ports"])
    assert compose["security_opt"] == ["no-new-privileges:true"] and compose["cap_drop"] == ["ALL"]
    assert {"cpus", "memory", "pids"} <= set(compose["deploy"]["resources"]["limits"])
    assert compose["user"].split(":")[0] != "0"


def test_both_deployments_start_the_server_alike(compose, container):
    here, there = flags(compose["command"]), flags(container["args"])
    # A ConfigMap never changes under a running pod: its name ends in its digest.
    assert here.pop("model_config_file_poll_wait_seconds")
    assert here == there
    assert compose["image"] == container["image"]
    assert compose["entrypoint"] == container["command"]
    mounted = {"/config/models.config", "/config/batching.config", "/config/monitoring.config"}
    assert {value for value in here.values() if value.startswith("/")} == mounted
    for name in mounted:
        assert (FOLDER / Path(name).name).is_file()


def test_ports_agree(compose, container, kinds):
    ports = flags(compose["command"])
    ports = {"grpc": int(ports["port"]), "rest": int(ports["rest_api_port"])}
    assert {int(port.rsplit(":", 1)[1]) for port in compose["ports"]} == set(ports.values())
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports
    for kind, name in kinds:
        if kind == "Service":
            for port in kinds[kind, name]["spec"]["ports"]:
                assert port["port"] == ports[port["targetPort"]]
    asked = compose["healthcheck"]["test"]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["exec"]["command"] == asked[1:]
    assert asked[-2:] == ["/config/models.config", str(ports["rest"])]
    assert container["livenessProbe"]["grpc"]["port"] == ports["grpc"]


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_takes_its_objects(path):
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in documents(path):
        validate.validate(document, KUBERNETES_VERSION, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found(deployment):
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    with pytest.raises(validate.ValidationError):
        validate.validate(deployment | {"spec": deployment["spec"] | {"replica": 2}}, KUBERNETES_VERSION, strict=True)


def test_kubernetes_objects_point_at_one_another(kinds, deployment, container):
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    for (kind, _), one in kinds.items():
        spec = one.get("spec", {})
        chosen = {"Service": "selector", "NetworkPolicy": "podSelector", "PodDisruptionBudget": "selector"}.get(kind)
        if chosen:
            selector = spec[chosen].get("matchLabels", spec[chosen])
            assert selector.items() <= labels
    target = kinds["HorizontalPodAutoscaler", "tfdfd-serving"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert ("PersistentVolumeClaim", volumes["hub"]["persistentVolumeClaim"]["claimName"]) in kinds
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)


def test_a_rolling_update_never_has_fewer_pods(deployment, container):
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    security = container["securityContext"] | deployment["spec"]["template"]["spec"]["securityContext"]
    assert security["runAsNonRoot"] and security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_kustomize_knows_all_files(deployment):
    (kustomization,) = documents(FOLDER / "kustomization.yaml")
    assert {FOLDER / name for name in kustomization["resources"]} == set(KUBERNETES)
    (generated,) = kustomization["configMapGenerator"]
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    assert generated["name"] in [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
    assert {"models.config", "batching.config", "monitoring.config", "ready.sh"} == set(generated["files"])
    assert all((FOLDER / name).is_file() for name in generated["files"])


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_makes(kinds):
    (values,) = documents(FOLDER / "monitoring" / "prometheus-adapter.yaml")
    (rule,) = values["rules"]["custom"]
    (metric,) = kinds["HorizontalPodAutoscaler", "tfdfd-serving"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert ":tensorflow:serving:batching_session:queuing_latency" in rule["seriesQuery"]


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ({"a": "AVAILABLE", "b": "AVAILABLE"}, 0),
        ({"a": "AVAILABLE", "b": "LOADING"}, 1),
        ({"a": "AVAILABLE", "b": "END"}, 1),
        ({"a": "AVAILABLE"}, 1),
    ],
)
def test_ready_is_who_has_a_version_of_each_model(tmp_path, states, code):
    (tmp_path / "models.config").write_text('config {\n  name: "a"\n}\nconfig {\n name: "b"\n}\n')
    with rest_server(Script(None), states=states) as address:
        words = ["bash", FOLDER / "ready.sh", tmp_path / "models.config", address.rsplit(":")[1]]
        done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == code
    assert ("b has no version that is AVAILABLE" in done.stderr) == bool(code)


def test_who_does_not_listen_is_not_ready(tmp_path):
    (tmp_path / "models.config").write_text('config {\n  name: "a"\n}\n')
    done = subprocess.run(
        ["bash", FOLDER / "ready.sh", tmp_path / "models.config", "1"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "Connection refused" in done.stderr
    (tmp_path / "models.config").write_text("")
    done = subprocess.run(
        ["bash", FOLDER / "ready.sh", tmp_path / "models.config", "1"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "names no model" in done.stderr


@pytest.fixture
def start(tmp_path):
    """A function that runs `start.sh` with some programs to be found, each of which prints how it was called."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cat", "cp", "dirname", "env", "mktemp", "sed", "tr"):
        (tools / name).symlink_to(shutil.which(name))

    def start(*words, programs=()):
        for name in programs:
            (tools / name).write_text('#!/bin/bash\nprintf "%s\\n" "$0" "$TFDFD_HUB" "$@"\n')
            (tools / name).chmod(0o755)
        environment = {"PATH": str(tools), "TMPDIR": str(tmp_path)}
        return subprocess.run(
            ["bash", FOLDER / "start.sh", *map(str, words)], capture_output=True, text=True, env=environment
        )

    return start


@pytest.fixture
def small_hub(tmp_path, configs):
    for config in configs:
        for version in config.model_version_policy.specific.versions:
            (tmp_path / "my hub" / config.name / str(version)).mkdir(parents=True)
            (tmp_path / "my hub" / config.name / str(version) / "saved_model.pb").touch()
    return tmp_path / "my hub"


def test_start_with_the_program(start, small_hub, tmp_path, configs, compose):
    done = start(
        "--hub", small_hub, "--port", 9000, "--rest-port", 9001, programs=["tensorflow_model_server", "docker"]
    )
    assert done.returncode == 0, done.stderr
    given = flags(line for line in done.stdout.splitlines() if line.startswith("--"))
    assert (given["port"], given["rest_api_port"]) == ("9000", "9001")
    assert given.keys() == flags(compose["command"]).keys()
    found = models_of(Path(given["model_config_file"]).read_text())
    assert [config.base_path for config in found] == [f"{small_hub}/{config.name}" for config in configs]
    for name in ("batching_parameters_file", "monitoring_config_file"):
        assert Path(given[name]).read_text() == (FOLDER / Path(given[name]).name).read_text()
    assert "asks nobody who he is" in done.stderr


def test_start_with_docker(start, small_hub):
    done = start("--hub", small_hub, programs=["docker"])
    assert done.returncode == 0, done.stderr
    program, hub, *words = done.stdout.splitlines()
    assert program.endswith("docker") and hub == str(small_hub)
    assert words == ["compose", "-f", str(FOLDER / "docker-compose.yml"), "up"]


@pytest.mark.parametrize("program", ["tensorflow_model_server", "docker"])
def test_printed_is_not_run(start, small_hub, tmp_path, program):
    before = set(tmp_path.iterdir())
    done = start("--hub", small_hub, "--print", programs=[program])
    (line,) = done.stdout.splitlines()
    assert done.returncode == 0 and program in line
    assert set(tmp_path.iterdir()) == before


def test_without_either_the_embedded_server_is_named(start, small_hub, configs):
    done = start("--hub", small_hub)
    assert done.returncode == 1
    assert f"tfdfd serve --models {small_hub}/{configs[0].name}" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--port", "x"], 2, "a port is a number"),
        (["--port", "8501"], 2, "need a port each"),
        (["--port"], 2, "needs a value"),
        (["--frobnicate"], 2, "usage: start.sh"),
        (["--hub", "/no/such"], 1, "there is no hub"),
        (["--hub", "/usr"], 1, "models.config names what /usr does not hold: meso_inception4/1"),
    ],
)
def test_wrong_usage_of_start(start, words, code, told):
    done = start(*words, programs=["tensorflow_model_server"])
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_executable_and_clean(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", script], check=True)


def test_grpc_retries_what_may_pass_and_nothing_else():
    (policy,) = RETRIES["methodConfig"]
    assert set(policy["retryPolicy"]["retryableStatusCodes"]) == {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}
    assert json.loads(dict(OPTIONS)["grpc.service_config"]) == RETRIES


def test_modules_say_what_they_do():
    for module in ("client_rest", "models_config", "load_test"):
        words = [sys.executable, "-m", f"tf_serving.{module}", "--help"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("usage")


# Of a model's entry, from the schema in OpenVINO Model Server's source, src/schema.cpp.
OPENVINO_ENTRY = {
    "type": "object",
    "required": ["name", "base_path"],
    "properties": {
        "name": {"type": "string"},
        "base_path": {"type": "string"},
        "batch_size": {"type": ["integer", "string"]},
        "shape": {"type": ["object", "string"]},
        "model_version_policy": {"type": "object"},
        "nireq": {"type": "integer", "minimum": 0},
        "target_device": {"type": "string"},
        "plugin_config": {"type": "object"},
    },
    "additionalProperties": False,
}


def test_openvino_model_server_takes_its_configuration(configs):
    jsonschema = pytest.importorskip("jsonschema")
    openvino = pytest.importorskip("openvino")
    configuration = json.loads((FOLDER / "openvino_model_server.json").read_text())
    assert configuration.keys() == {"model_config_list"}
    entries = [entry["config"] for entry in configuration["model_config_list"]]
    for entry in entries:
        jsonschema.validate(entry, OPENVINO_ENTRY)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(entry | {"devices": "CPU"}, OPENVINO_ENTRY)
        # A version policy has one of these; and what the plugin is told, it knows.
        assert entry["model_version_policy"].keys() <= {"latest", "specific", "all"}
        device = openvino.Core()
        for key, value in entry["plugin_config"].items():
            device.set_property(entry["target_device"], {key: value})
    assert [(entry["name"], entry["base_path"]) for entry in entries] == [(one.name, one.base_path) for one in configs]


def test_ray_serve_takes_its_configuration():
    code = (
        "import sys, yaml; from ray.serve.schema import ServeDeploySchema; "
        "schema = ServeDeploySchema.parse_obj(yaml.safe_load(open(sys.argv[1]))); (one,) = schema.applications; "
        "import importlib; module, _, name = one.import_path.partition(':'); "
        "application = getattr(importlib.import_module(module), name)(one.args); "
        "assert application._bound_deployment.name == one.deployments[0].name; print(one.args['folder'])"
    )
    python = os.environ.get("TFDFD_RAY_SERVE", sys.executable)
    if subprocess.run([python, "-c", "import ray.serve.schema"], capture_output=True).returncode:
        pytest.skip("no ray[serve]: install it, or name a Python that has it in $TFDFD_RAY_SERVE")
    done = subprocess.run(
        [python, "-c", code, str(FOLDER / "ray_serve.yaml")], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (ROOT / done.stdout.split()[-1] / "saved_model.pb").is_file()
