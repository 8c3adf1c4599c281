"""Handles of published models: where they are looked for, what is believed of it, and what is refused."""

import dataclasses
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdfd.hub import Handle, HubError, resolve, sources
from tfdfd.hub.bundled import FromWeights
from tfdfd.hub.manifest import File, Manifest, Version, version_in
from tfdfd.hub.resolve import bundled, find
from tfdfd.hub.sources import AddressHub, Cache
from tfdfd.hub.tf_hub import Resolver
from tfdfd.weights.store import locate

# The one whose SavedModel the repository carries.
PUBLISHED_MODEL = "tfdfd/meso_inception4"

ROOT = Path(__file__).parent.parent
CARRIED = ROOT / "saved_models"
MODEL = "meso_inception4"
UNTRAINED = "resnet152"
VARIABLES = "variables/variables.data-00000-of-00001"

posix = pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")


pytestmark = pytest.mark.usefixtures("carried_hub_only")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub folder with versions 1 and 2 of the carried model, set as `$TFDFD_HUB`."""
    root = tmp_path / "hub"
    for number in (1, 2):
        shutil.copytree(CARRIED / MODEL / "1", root / MODEL / str(number))
    card = root / MODEL / "2" / "model_card.json"
    card.write_text(card.read_text("utf-8") + "\n", encoding="utf-8")
    write_manifest(root)
    monkeypatch.setenv("TFDFD_HUB", str(root))
    return root


def write_manifest(root, numbers=(1, 2)):
    manifest = Manifest()
    for number in numbers:
        manifest = manifest.with_version(MODEL, number, version_in(root / MODEL / str(number), MODEL))
    (root / "manifest.json").write_bytes(manifest.encoded())


def digest_of_manifest(root):
    return hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Offers a folder; what is asked for is in `asked`, and `answers` says otherwise for single paths."""

    def __init__(self, root):
        self.asked, self.answers = [], {}
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(root))

            def do_GET(self):
                server.asked.append(self.path.removeprefix("/"))
                answer = server.answers.get(server.asked[-1])
                if answer is None:
                    super().do_GET()
                else:
                    answer(self)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """A client that hangs up on us is what these tests are about."""


@pytest.fixture
def served(hub, monkeypatch):
    """The hub behind a web server, whose address is `$TFDFD_HUB`."""
    with Server(hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("TFDFD_HUB", server.address)
        yield server
        server.shutdown()


# Handles


@pytest.mark.parametrize(
    ("text", "handle"),
    [
        ("tfdfd/reseption_v1", Handle("reseption_v1")),
        ("tfdfd/reseption_v1/2", Handle("reseption_v1", 2)),
        ("tfdfd/reseption_v1/feature_vector", Handle("reseption_v1", None, True)),
        ("tfdfd/meso4.df/12/feature_vector", Handle("meso4.df", 12, True)),
    ],
)
def test_handles_are_read_and_written_alike(text, handle):
    assert Handle.parse(text) == handle and str(handle) == text


@pytest.mark.parametrize(
    "text",
    ["tfdfd", "tfdfd/", "tfdfd/../etc", "tfdfd//meso4", "tfdfd/meso4/0", "tfdfd/meso4/01", "tfdfd/meso4/1.5"]
    + ["tfdfd/Meso4", "tfdfd/meso4/", "tfdfd/meso4\n", "tfdfd/meso4/features", "tfdfd/meso4/1/2", "tfdfd/.."]
    + ["tfdfd/http://x", "tfdfd/meso4%2f..", "tfdfd/" + "m" * 500, "tfdfd/m\0", "/tfdfd/meso4", "", None, 3],
)
def test_what_is_no_handle_is_refused(text):
    with pytest.raises(HubError, match="is not a handle"):
        Handle.parse(text)


@pytest.mark.parametrize("text", ["tfdfd/x", "tfdfd/../x", "tfdfd/http://x", "tfdfd"])
def test_the_resolver_leaves_nothing_of_ours_to_others(text):
    assert Resolver().is_supported(text)


@pytest.mark.parametrize("text", ["https://tfhub.dev/x/1", "/tmp/tfdfd/x", "tfdfd_x/1", "./tfdfd/x", 3])
def test_the_resolver_leaves_others_alone(text):
    assert not Resolver().is_supported(text)


def test_a_mistyped_handle_lists_near_ones():
    with pytest.raises(HubError, match="did you mean tfdfd/meso_inception4"):
        find("tfdfd/meso_inceptoin4")


def test_weights_that_nobody_has_trained_name_their_recipe():
    with pytest.raises(HubError, match=f"nobody has trained .* tfdfd/{UNTRAINED}.*tfdfd train s2-resnet152"):
        find(f"tfdfd/{UNTRAINED}")


def test_weights_that_are_elsewhere_name_the_command():
    with pytest.raises(HubError, match="on this machine; run 'tfdfd models pull tfdfd/meso4.df'."):
        find("tfdfd/meso4.df/1")


def test_a_version_that_is_not_there_lists_those_that_are(hub):
    with pytest.raises(HubError, match="has no version 7; there is 1, 2"):
        find(f"tfdfd/{MODEL}/7")


# Where they are looked for


def test_the_carried_model_is_found_without_any_setting():
    model = find(f"tfdfd/{MODEL}/feature_vector")
    assert model.path == CARRIED / MODEL / "1" / "feature_vector" and model.handle == Handle(MODEL, 1, True)
    assert Resolver()(f"tfdfd/{MODEL}") == str(CARRIED / MODEL / "1")


def test_weights_of_the_carried_model_are_found_with_its_version():
    assert locate(f"{PUBLISHED_MODEL}/1") == locate(PUBLISHED_MODEL) == locate(MODEL)
    with pytest.raises(ValueError, match="has no version 7"):
        locate(f"{PUBLISHED_MODEL}/7")


def test_a_folder_of_the_handles_name_does_not_answer(tmp_path, monkeypatch):
    shutil.copytree(CARRIED / MODEL / "1", tmp_path / "tfdfd" / UNTRAINED)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HubError, match="nobody has trained"):
        Resolver()(f"tfdfd/{UNTRAINED}")


def test_the_hub_goes_before_the_package_and_its_highest_version_is_the_default(hub):
    assert find(f"tfdfd/{MODEL}").folder == hub / MODEL / "2"
    assert find(f"tfdfd/{MODEL}/1").folder == hub / MODEL / "1"


def test_ten_is_higher_than_nine(hub):
    for number in (9, 10):
        shutil.copytree(hub / MODEL / "1", hub / MODEL / str(number))
    write_manifest(hub, (1, 9, 10))
    assert find(f"tfdfd/{MODEL}").handle.version == 10


def test_what_the_hub_lacks_the_package_has(hub):
    (hub / "manifest.json").write_bytes(Manifest().encoded())
    assert find(f"tfdfd/{MODEL}").folder == CARRIED / MODEL / "1"


@pytest.mark.parametrize("place", ["absent", "manifest.json"])
def test_a_hub_that_is_no_folder_is_an_error(hub, monkeypatch, place):
    monkeypatch.setenv("TFDFD_HUB", str(hub / place))
    with pytest.raises(HubError, match="there is no folder"):
        find(f"tfdfd/{MODEL}")


def test_a_folder_without_manifest_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDFD_HUB", str(tmp_path))
    with pytest.raises(HubError, match="manifest.json, which 'tfdfd publish' writes"):
        find(f"tfdfd/{MODEL}")


def test_the_carried_hub_is_whole():
    """Whoever publishes into saved_models and forgets a file."""
    models = bundled().manifest().models
    assert MODEL in models
    for model, versions in models.items():
        for number, version in versions.items():
            if not isinstance(version, FromWeights):
                bundled().folder_of(model, number, version)


# What is believed of a folder


def test_an_altered_file_is_refused(hub):
    path = hub / MODEL / "1" / VARIABLES
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(HubError, match="was altered: its sha256 is"):
        find(f"tfdfd/{MODEL}/1")
    assert find(f"tfdfd/{MODEL}/2")


def test_an_altered_file_of_the_feature_vector_is_refused_for_the_whole_version(hub):
    path = hub / MODEL / "1" / "feature_vector" / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(HubError, match="was altered"):
        find(f"tfdfd/{MODEL}/1")


def test_another_size_is_refused_before_anything_is_read(hub):
    with (hub / MODEL / "1" / "saved_model.pb").open("ab") as file:
        file.truncate(60 << 30)  # sparse: reading it would take minutes
    with pytest.raises(HubError, match="bytes, but the manifest says"):
        find(f"tfdfd/{MODEL}/1")


def test_a_missing_file_is_refused(hub):
    (hub / MODEL / "1" / VARIABLES).unlink()
    with pytest.raises(HubError, match="lacks 'variables/variables.data"):
        find(f"tfdfd/{MODEL}/1")


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "tfhub_module.pb", "assets/code.py", ".hidden"])
def test_a_file_that_the_manifest_does_not_list_is_refused(hub, name):
    (hub / MODEL / "1" / "assets").mkdir(exist_ok=True)
    (hub / MODEL / "1" / name).write_text("")
    with pytest.raises(HubError, match="does not list"):
        find(f"tfdfd/{MODEL}/1")


@posix
@pytest.mark.parametrize("name", ["saved_model.pb", "variables", "feature_vector", ".", ".."])
def test_links_are_refused(hub, tmp_path, name):
    path = Path(os.path.normpath(hub / MODEL / "1" / name))
    os.rename(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HubError, match="is a link"):
        find(f"tfdfd/{MODEL}/1")


@posix
def test_a_manifest_that_is_a_link_is_refused(hub, tmp_path):
    os.rename(hub / "manifest.json", tmp_path / "manifest.json")
    (hub / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(HubError, match="a link is not read"):
        find(f"tfdfd/{MODEL}/1")


@posix
def test_a_pipe_does_not_hang_it(hub):
    (hub / MODEL / "1" / "saved_model.pb").unlink()
    os.mkfifo(hub / MODEL / "1" / "saved_model.pb")
    with pytest.raises(HubError, match="pipe"):
        find(f"tfdfd/{MODEL}/1")


def test_operations_that_reach_files_are_refused_though_published(hub):
    """A hub can be honest about its digests and yet hold a graph that reads files."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = hub / MODEL / "1" / "saved_model.pb"
    model = SavedModel.FromString(path.read_bytes())
    model.meta_graphs[0].graph_def.node.add(name="reader", op="ReadFile")
    path.write_bytes(model.SerializeToString())
    write_manifest(hub)
    with pytest.raises(HubError, match="was not loaded.*ReadFile"):
        find(f"tfdfd/{MODEL}/1")


# Manifests


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../b", "/etc/passwd", "a//b", "a/", "", ".", "..", ".hidden", "a/.b", "a\\b", "C:x", "a b", "ä", "a\n"]
    + ["a\0", "-rf", "a/" * 9 + "b", "x" * 200, None, 3, ["a"]],
)
def test_names_that_are_not_plain_are_refused(hub, path):
    told = json.loads((hub / "manifest.json").read_text())
    told["models"][MODEL]["1"]["files"][0]["path"] = path
    (hub / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(HubError, match="expected a relative path of plain names"):
        find(f"tfdfd/{MODEL}/1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "not a manifest of schema 1"),
        ({"models": []}, "not a manifest of schema 1"),
        ({"models": {"../x": {}}}, "is named like a network"),
        ({"models": {"meso4": []}}, "must be an object"),
        ({"models": {"meso4": {"0": {}}}}, "is not a version"),
        ({"models": {"meso4": {"1/..": {}}}}, "is not a version"),
        ({"models": {"meso4": {"1": {"files": []}}}}, "1 to 1000 files"),
        ({"models": {"meso4": {"1": {"files": [3]}}}}, "must be an object"),
        ({"models": {"meso4": {"1": {"files": [{"path": "a", "bytes": -1}]}}}}, "must have 0 to"),
        ({"models": {"meso4": {"1": {"files": [{"path": "a", "bytes": 5 << 30}]}}}}, "must have 0 to"),
        ({"models": {"meso4": {"1": {"files": [{"path": "a", "bytes": True}]}}}}, "must have 0 to"),
        (
            {"models": {"meso4": {"1": {"files": [{"path": "a", "bytes": 1, "sha256": "A" * 64}]}}}},
            "must have a sha256",
        ),
        ({"models": {"meso4": {"1": {"files": 2 * [{"path": "a", "bytes": 1, "sha256": "a" * 64}]}}}}, "twice"),
    ],
)
def test_what_is_no_manifest_is_refused(change, message):
    with pytest.raises(HubError, match=message):
        Manifest.decode(json.dumps({"schema": 1, "models": {}} | change).encode(), "m")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["schema", "models", "meso4", "1", "files", "path", "bytes", "sha256"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps({"schema": 1, "models": value}).encode()))
def test_any_bytes_are_a_manifest_or_a_hub_error(data):
    try:
        manifest = Manifest.decode(data, "m")
    except HubError:
        return
    assert Manifest.decode(manifest.encoded(), "m") == manifest


def test_a_bomb_of_brackets_is_refused():
    with pytest.raises(HubError):
        Manifest.decode(b"[" * 1_000_000, "m")


def test_a_manifest_says_the_same_in_the_same_bytes():
    one, two = File("a", 1, "a" * 64), File("b", 2, "b" * 64)
    manifest = Manifest().with_version("y", 10, Version((one,))).with_version("x", 9, Version((one, two)))
    other = Manifest().with_version("x", 9, Version((one, two))).with_version("y", 10, Version((one,)))
    assert manifest.encoded() == other.encoded()
    assert Manifest.decode(manifest.encoded(), "m") == manifest


# Pins


def test_a_pinned_manifest_must_be_that_one(hub, monkeypatch):
    monkeypatch.setenv("TFDFD_HUB_SHA256", "0" * 64)
    with pytest.raises(HubError, match="but .TFDFD_HUB_SHA256 is 0000"):
        find(f"tfdfd/{MODEL}")


def test_a_pinned_folder_is_loaded_from_a_copy(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDFD_HUB_SHA256", digest_of_manifest(hub).upper())
    model = find(f"tfdfd/{MODEL}/1")
    assert tmp_path / "cache" in model.folder.parents
    shutil.rmtree(hub / MODEL)
    assert find(f"tfdfd/{MODEL}/1").folder == model.folder


@posix
@pytest.mark.parametrize("name", ["saved_model.pb", "variables", "."])
def test_no_link_is_followed_into_the_copy(hub, monkeypatch, tmp_path, name):
    monkeypatch.setenv("TFDFD_HUB_SHA256", digest_of_manifest(hub))
    path = Path(os.path.normpath(hub / MODEL / "1" / name))
    os.rename(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HubError, match="is a link"):
        find(f"tfdfd/{MODEL}/1")


def test_a_pin_that_is_no_digest_or_pins_nothing_is_an_error(monkeypatch):
    monkeypatch.setenv("TFDFD_HUB_SHA256", "0" * 64)
    with pytest.raises(HubError, match="names none; set both or neither"):
        find(f"tfdfd/{MODEL}")
    monkeypatch.setenv("TFDFD_HUB_SHA256", "yes")
    with pytest.raises(HubError, match="must be a sha256"):
        find(f"tfdfd/{MODEL}")


# Addresses


def test_an_address_is_fetched_once(served, tmp_path):
    model = find(f"tfdfd/{MODEL}")
    assert tmp_path / "cache" in model.folder.parents and model.handle.version == 2
    fetched = len(served.asked)
    assert find(f"tfdfd/{MODEL}/feature_vector").folder == model.folder
    assert served.asked[fetched:] == ["manifest.json"]


def test_without_the_hub_the_cache_answers(served, monkeypatch):
    folder = find(f"tfdfd/{MODEL}/2").folder
    monkeypatch.delenv("TFDFD_HUB")
    assert find(f"tfdfd/{MODEL}/2").folder == folder


def test_a_hub_that_does_not_answer_is_told_and_the_package_does(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TFDFD_HUB", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.warns(UserWarning, match="could not be fetched.*is that of the package, version 1"):
            assert find(f"tfdfd/{MODEL}").folder == CARRIED / MODEL / "1"
        with pytest.raises(HubError, match="nobody has trained.*not looked for everywhere"):
            find(f"tfdfd/{UNTRAINED}")


def test_a_hub_that_accepts_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr("tfdfd.hub.sources.TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("TFDFD_HUB", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.warns(UserWarning, match="could not be fetched"):
            assert find(f"tfdfd/{MODEL}").folder == CARRIED / MODEL / "1"


def test_under_a_pin_the_cache_answers_only_with_what_came_by_it(served, hub, monkeypatch):
    find(f"tfdfd/{MODEL}/2")
    monkeypatch.setenv("TFDFD_HUB_SHA256", digest_of_manifest(hub))
    served.answers["manifest.json"] = lambda request: request.send_error(503)
    with pytest.warns(UserWarning, match="503"):
        assert find(f"tfdfd/{MODEL}/2").hub == "the cache"
    monkeypatch.setenv("TFDFD_HUB_SHA256", "0" * 64)
    with pytest.raises(HubError, match="has no version 2"):
        find(f"tfdfd/{MODEL}/2")


def test_a_server_that_breaks_off_leaves_nothing_and_what_arrived_is_kept(served, tmp_path):
    broken = f"{MODEL}/2/model_card.json"

    def half(request):
        request.send_response(200)
        request.send_header("Content-Length", "5000000")
        request.end_headers()
        request.wfile.write(b"half")

    served.answers[broken] = half
    with pytest.raises(HubError, match="broke off|not the expected file"):
        find(f"tfdfd/{MODEL}/2")
    assert Cache().manifest().models == {}
    del served.answers[broken]
    first = set(served.asked)
    served.asked.clear()
    assert find(f"tfdfd/{MODEL}/2")
    assert broken in served.asked
    assert not (set(served.asked) - {"manifest.json", broken}) & first


def test_a_file_altered_on_the_way_is_refused(served):
    path = f"{MODEL}/2/saved_model.pb"

    def altered(request):
        data = (Path(request.directory) / path).read_bytes()[:-1] + b"x"
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    served.answers[path] = altered
    with pytest.raises(HubError, match="saved_model.pb is not the expected file"):
        find(f"tfdfd/{MODEL}/2")
    assert Cache().manifest().models == {}


@pytest.mark.parametrize("path", ["manifest.json", f"{MODEL}/2/saved_model.pb"])
def test_an_endless_answer_is_cut_off(served, path, monkeypatch):
    monkeypatch.setattr("tfdfd.hub.sources.MAX_BYTES", 1 << 20)

    def endless(request):
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b"\0" * 65536)

    served.answers[path] = endless
    with pytest.raises(HubError, match="is larger than"):
        find(f"tfdfd/{MODEL}/2")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "javascript:0"])
def test_redirects_to_other_schemes_are_refused(served, target):
    def elsewhere(request):
        request.send_response(302)
        request.send_header("Location", target)
        request.end_headers()

    served.answers["manifest.json"] = elsewhere
    with pytest.raises(HubError):
        find(f"tfdfd/{MODEL}/2")


@pytest.mark.parametrize("part", ["headers", "body", "manifest"])
def test_a_server_that_sends_byte_by_byte_is_given_up(served, part, monkeypatch):
    """Each byte is in time; all of them are not."""
    monkeypatch.setattr(sources, "TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(sources, "BYTES_PER_SECOND", 1 << 40)

    def slow(request):
        head = b"HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n"
        request.wfile.write(head if part == "headers" else head + b"\r\n")
        for _ in range(80):
            request.wfile.write(b"X-A: b\r\n" if part == "headers" else b" ")
            time.sleep(0.05)

    served.answers["manifest.json" if part == "manifest" else f"{MODEL}/2/saved_model.pb"] = slow
    begun = time.monotonic()
    if part == "manifest":
        with pytest.warns(UserWarning, match="was not received within 1 s"):
            find(f"tfdfd/{MODEL}")
    else:
        with pytest.raises(HubError, match="was not received within 1 s"):
            find(f"tfdfd/{MODEL}/2")
    assert time.monotonic() - begun < 20 and Cache().manifest().models == {}


def test_redirects_stay_on_the_server():
    def follow(before, after):
        request = urllib.request.Request(before)  # noqa: S310
        return sources._Redirects().redirect_request(request, io.BytesIO(), 302, "", {}, after).full_url

    for before, after in (("http://a.org/x", "http://a.org/y"), ("http://a.org/x", "https://a.org/y")):
        assert follow(before, after) == after
    for before, after in (
        ("https://a.org/x", "http://a.org/x"), ("http://a.org/x", "https://b.org/x"),
        ("http://a.org/x", "http://b.org/x"), ("https://a.org/x", "https://a.org:8443/x"),
        ("http://127.0.0.1:80/x", "http://127.0.0.1:8500/v1"), ("https://a.org/x", "https://a.org@b.org/x"),
    ):  # fmt: skip
        with pytest.raises(HubError, match="redirects are only followed on the same server"):
            follow(before, after)


def test_a_redirect_of_the_same_scheme_is_followed(served):
    def elsewhere(request):
        request.send_response(302)
        request.send_header("Location", f"{served.address}/./manifest.json")
        request.end_headers()

    served.answers["manifest.json"] = elsewhere
    assert find(f"tfdfd/{MODEL}/2")


def test_an_address_without_manifest_is_an_error(served, monkeypatch):
    monkeypatch.setenv("TFDFD_HUB", f"{served.address}/nowhere")
    with pytest.raises(HubError, match="answers 404"):
        find(f"tfdfd/{MODEL}")


def test_a_page_instead_of_a_manifest_is_an_error(served):
    def page(request):
        request.send_response(200)
        request.end_headers()
        request.wfile.write(b"<html>Sign in</html>")

    served.answers["manifest.json"] = page
    with pytest.raises(HubError, match="is not JSON"):
        find(f"tfdfd/{MODEL}")


def test_plain_http_from_elsewhere_needs_a_pin():
    with pytest.raises(HubError, match="plain http"):
        AddressHub("http://models.example.org/tfdfd")
    assert AddressHub("http://models.example.org/tfdfd", pin="0" * 64)
    assert AddressHub("https://models.example.org/tfdfd")
    assert AddressHub("http://[::1]:80/tfdfd")


@pytest.mark.parametrize(
    "address",
    ["file:///etc", "ftp://x/y", "https://", "https://user:word@x/y", "https://x/y?z", "https://x/#y", "http://[::1"]
    + ["https://x:99999/", "https://x/\nHost: y", "https://ä.de/", "gs://bucket/x"],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(HubError, match="TFDFD_HUB"):
        AddressHub(address, pin="0" * 64)


# The cache


def test_a_cache_that_was_altered_is_refused(served):
    path = find(f"tfdfd/{MODEL}/2").folder / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(HubError, match="was altered.*delete"):
        find(f"tfdfd/{MODEL}/2")


def test_hubs_that_differ_in_a_version_do_not_meet_in_the_cache(served, hub):
    first = find(f"tfdfd/{MODEL}/2").folder
    card = hub / MODEL / "2" / "model_card.json"
    card.write_text(card.read_text("utf-8") + "\n", encoding="utf-8")
    write_manifest(hub)
    second = find(f"tfdfd/{MODEL}/2").folder
    assert first != second and (second / "model_card.json").read_bytes() == card.read_bytes()


@posix
@pytest.mark.parametrize(("mode", "who"), [(0o777, "everybody"), (0o770, "its group"), (0o775, "its group")])
def test_a_cache_that_others_may_write_is_refused(served, tmp_path, mode, who):
    (tmp_path / "cache" / "tfdfd").mkdir(parents=True)
    (tmp_path / "cache" / "tfdfd").chmod(mode)
    with pytest.raises(HubError, match=rf"{who} may write there: run 'chmod go-w .*/cache/tfdfd'"):
        find(f"tfdfd/{MODEL}/2")
    (tmp_path / "cache" / "tfdfd").chmod(mode & ~0o022)
    assert find(f"tfdfd/{MODEL}/2")


def test_a_cache_in_a_bucket_is_refused(served, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", "gs://bucket")
    with pytest.raises(HubError, match="must be a local folder"):
        find(f"tfdfd/{MODEL}/2")


def test_many_fetch_at_once_and_all_find_it_whole(served):
    folders, errors = [], []

    def fetch():
        try:
            folders.append(find(f"tfdfd/{MODEL}/2").folder)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(set(folders)) == 1
    assert sum(name.endswith("/saved_model.pb") for name in served.asked) == 2  # and the feature vector's


# Registering, with a stand-in for TensorFlow Hub that is asked in the same way and takes no seconds to import

STAND_IN = {
    "__init__.py": "from tensorflow_hub.registry import resolver\nimport os\n"
    "if os.environ.get('BROKEN'): raise ImportError('no pkg_resources')\n"
    "class Path:\n    is_supported = lambda self, handle: True\n    __call__ = lambda self, handle: 'path ' + handle\n"
    "resolver.add_implementation(Path())\nresolve = resolver\n",
    "registry.py": "class Register:\n    def __init__(self): self.all = []\n"
    "    def add_implementation(self, one): self.all.append(one)\n"
    "    def __call__(self, handle):\n"
    "        return next(one for one in reversed(self.all) if one.is_supported(handle))(handle)\n"
    "resolver = Register()\n",
}
ASK = (
    "import sys; r = sys.modules['tensorflow_hub.registry'].resolver.all; assert type(r[-1]).__name__ == 'Resolver', r"
)


@pytest.mark.parametrize(
    "program",
    [
        "import tfdfd; import tensorflow_hub; " + ASK,
        "import tensorflow_hub; import tfdfd; " + ASK,
        "import tfdfd, importlib; import tensorflow_hub; importlib.reload(tensorflow_hub); " + ASK,
        "import tensorflow_hub; import tfdfd, importlib; importlib.reload(tensorflow_hub); " + ASK,
        "import tfdfd, importlib.util; importlib.util.find_spec('tensorflow_hub'); import tensorflow_hub; " + ASK,
        "import os; os.environ['BROKEN'] = '1'\nimport tfdfd\ntry: import tensorflow_hub\n"
        "except ImportError: pass\nelse: raise SystemExit(3)\ndel os.environ['BROKEN']\nimport tensorflow_hub; " + ASK,
        "import tfdfd, sys; assert not {'tensorflow_hub', 'tensorflow', 'numpy', 'keras'} & set(sys.modules)",
        "import sys; sys.path.pop(0); sys.modules['tensorflow_hub'] = None\nimport importlib.util, tfdfd",
    ],
)
def test_whichever_is_imported_first(tmp_path, program):
    (tmp_path / "tensorflow_hub").mkdir()
    for name, text in STAND_IN.items():
        (tmp_path / "tensorflow_hub" / name).write_text(text)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_tensorflow_hub_without_a_registry_is_told_and_works_otherwise(tmp_path):
    (tmp_path / "tensorflow_hub").mkdir()
    (tmp_path / "tensorflow_hub" / "__init__.py").write_text("answer = 42")
    done = subprocess.run(
        [sys.executable, "-c", "import tfdfd, tensorflow_hub; print(tensorflow_hub.answer)"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "42\n" and "does not take the handles of tfdfd" in done.stderr


def test_found_says_what_it_found(hub):
    model = find(f"tfdfd/{MODEL}/1")
    assert str(hub) in model.hub and {file.path for file in model.version.files} >= {"saved_model.pb", VARIABLES}
    assert dataclasses.replace(model, handle=Handle(MODEL, 1, True)).path.name == "feature_vector"
    assert resolve.VARIABLE == "TFDFD_HUB"
