"""The local page: who may ask, what is refused, what is scored, and that nothing stays."""

import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import psutil
import pytest

from tests.browser import Browser
from tfdfd.app import session_folder

SAMPLES = Path(__file__).parent.parent / "tfdfd" / "samples"
FRAMES = 4
LIMITS = (
    "--frames",
    FRAMES,
    "--max-bytes",
    "400k",
    "--max-queue",
    "2",
    "--upload-seconds",
    "6",
    "--max-upload-bytes",
    "700k",
)


class App:
    """`tfdfd app` in a process of its own, with a temporary folder of its own."""

    def __init__(self, folder, *options, **process):
        environment = os.environ | {"TMPDIR": str(folder)}
        self.place = folder / f"tfdfd-app-{os.getuid()}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tfdfd", "app", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **process,
        )
        self.address = self.process.stdout.readline().removeprefix("page: ").strip()
        self.host, self.port = urlsplit(self.address).hostname, urlsplit(self.address).port
        self.base = urlsplit(self.address).path

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()

    def ask(self, method, path="", body=None, base=None, **headers):
        """Status, headers and content of a response."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            connection.request(method, (self.base if base is None else base) + path, body, names)
            response = connection.getresponse()
            content = response.read()
        return response.status, response.headers, content

    def state(self):
        return json.loads(self.ask("GET", "files")[2])

    def upload(self, body, name="a.mp4", **headers):
        headers = {"Content_Type": "application/octet-stream"} | headers
        status, _, content = self.ask("POST", f"files?name={quote(name)}", body, **headers)
        return status, json.loads(content)

    def begin_upload(self, sent=b"x" * 1000, size=5000):
        """A connection whose upload is not complete."""
        connection = socket.create_connection((self.host, self.port), timeout=30)
        head = f"POST {self.base}files?name=half.mp4 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n"
        connection.sendall(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + sent)
        return connection

    def files(self):
        """Names of all files in the session's folder."""
        return sorted(path.name for path in self.place.rglob("*") if path.is_file())

    def until(self, condition, seconds=240):
        """The first state of which `condition` is true."""
        deadline = time.monotonic() + seconds
        while not condition(state := self.state()):
            assert time.monotonic() < deadline, state
            time.sleep(0.05)
        return state

    def finished(self, number):
        """The file with its result."""

        def of(state):
            return next(file for file in state["files"] if file["number"] == number)

        return of(self.until(lambda state: of(state)["state"] in ("done", "failed")))


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with App(tmp_path_factory.mktemp("app"), *LIMITS) as app:
        yield app


def test_first_page_comes_before_the_model_and_needs_the_whole_address(app):
    status, headers, page = app.ask("GET")
    assert status == 200 and b"What the words mean" in page
    assert headers["Cache-Control"] == "no-store" and "default-src 'none'" in headers["Content-Security-Policy"]
    assert all(app.ask("GET", name)[0] == 200 for name in ("page.js", "words.js", "page.css"))
    token = app.base.strip("/")
    assert len(token) >= 43
    for base in ("/", f"/{token[:-1]}/", f"/{token}x/", "/favicon.ico", "//"):
        status, _, content = app.ask("GET", "files", base=base)
        assert status == 403 and token.encode() not in content


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
def test_other_web_pages_change_nothing(app, headers):
    assert app.upload(b"x", **headers)[0] == 403
    assert app.ask("DELETE", "files", **headers)[0] == 403
    assert app.files() == []


def test_upload_needs_a_name_and_a_type_that_no_form_has(app):
    assert app.upload(b"x", Content_Type="text/plain")[0] == 400
    assert app.upload(b"x", Content_Type="multipart/form-data")[0] == 400
    assert app.upload(b"x", name="")[0] == 400
    assert app.ask("PUT", "files", b"x")[0] in (404, 501)
    assert app.ask("GET", "files/0123456789abcdef/report")[0] == 404
    assert app.ask("GET", "..%2f..%2fetc/passwd")[0] == 404
    assert app.files() == []


def test_upload_over_a_limit_leaves_nothing(app):
    status, answer = app.upload(b"x" * 400_001)
    assert status == 413 and "400,000 bytes (--max-bytes)" in answer["error"]
    status, answer = app.upload(iter([b"x" * 250_000] * 2))  # without a stated length
    assert status == 413
    with app.begin_upload(size=399_000):
        app.until(lambda state: state["files"])
        status, answer = app.upload(b"x" * 390_000)
        assert status == 413 and "--max-upload-bytes" in answer["error"]
    app.until(lambda state: not state["files"])
    assert app.files() == []


def test_upload_cut_off_in_the_middle_leaves_nothing(app):
    with app.begin_upload():
        state = app.until(lambda state: state["files"] and state["files"][0]["received"] == 1000)
        assert state["files"][0]["state"] == "uploading" and len(app.files()) == 1
    app.until(lambda state: not state["files"])
    assert app.files() == []


def test_full_disk_is_stated_and_leaves_nothing(tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    with App(tmp_path, preexec_fn=small_files) as app:
        status, answer = app.upload(b"x" * 200_000)
        assert status == 507 and "cannot be stored" in answer["error"]
        assert app.state()["files"] == [] and app.files() == []


def test_full_queue_is_stated_and_uploads_have_a_deadline(app):
    with app.begin_upload() as first, app.begin_upload() as second:
        state = app.until(lambda state: len(state["files"]) == 2)
        status, answer = app.upload(b"x")
        assert status == 429 and "2 files wait already" in answer["error"]
        # Deleting an upload that is under way ends it.
        assert app.ask("DELETE", f"files/{state['files'][0]['number']}")[0] == 200
        assert first.recv(100) == b""
        assert b"504" in second.recv(100).partition(b"\r\n")[0]
    assert app.state()["files"] == [] and app.files() == []


def test_clips_of_two_browsers_are_scored_as_by_detect_and_then_deleted(app, run_tfdfd):
    name = 'a <b>"clip"</b>\u202e\n.mp4'
    answers = {}

    def browser(sample, name):
        answers[sample] = app.upload((SAMPLES / sample).read_bytes(), name)

    browsers = [
        threading.Thread(target=browser, args=pair) for pair in (("genuine.mp4", "b.mp4"), ("blended.mp4", name))
    ]
    for thread in browsers:
        thread.start()
    for thread in browsers:
        thread.join()
    assert [status for status, _ in answers.values()] == [201, 201]
    numbers = {sample: file["number"] for sample, (_, file) in answers.items()}
    files = {sample: app.finished(number) for sample, number in numbers.items()}
    assert app.files() == sorted(f"{n}.{kind}" for n in numbers.values() for kind in ("html", "json"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in (app.place, *app.place.iterdir())] == [0o700, 0o700]
    words = ("--frames", FRAMES, "--json", "-", "--quiet")
    _, stdout, _ = run_tfdfd("detect", *(SAMPLES / sample for sample in files), *words)
    for sample, expected in zip(files, json.loads(stdout)["results"], strict=True):
        file = files[sample]
        assert file["first"]["fake_probability"] == pytest.approx(expected["fake_probability"], abs=0.3)
        status, headers, content = app.ask("GET", f"files/{file['number']}/result.json")
        (result,) = json.loads(content)["results"]
        assert status == 200 and headers["Content-Disposition"].startswith("attachment")
        for varies in ("path", "elapsed_s"):
            del result[varies], expected[varies]
        assert result == expected
        assert file["result"]["verdict"] == {"genuine.mp4": "real", "blended.mp4": "fake"}[sample]
    status, headers, page = app.ask("GET", f"files/{files['blended.mp4']['number']}/report")
    assert status == 200 and "sandbox" in headers["Content-Security-Policy"]
    # Whole frames, and the record of the settings, as in the report of `detect`.
    assert page.count(b'<figure class="shot">') == 3 and b"tfdfd verify results.json" in page
    assert b"Face detector" in page and b"SHA-256 of the weights" in page
    assert '<b>"clip' not in page.decode() and "&lt;b&gt;" in page.decode() and "\u202e" not in page.decode()
    assert app.ask("DELETE", "files")[0] == 200
    assert app.state()["files"] == [] and app.files() == []


def test_file_is_deleted_while_it_is_scored_and_the_next_one_goes_on(app):
    app.until(lambda state: state["ready"])
    _, clip = app.upload((SAMPLES / "genuine.mp4").read_bytes())
    app.until(lambda state: state["files"][-1]["state"] == "scoring")
    _, text = app.upload(b"no picture", "notes.txt")
    assert app.ask("DELETE", f"files/{clip['number']}")[0] == 200
    assert clip["number"] not in app.files()
    file = app.finished(text["number"])
    assert file["result"]["status"] == "unsupported" and file["result"]["verdict"] is None
    assert [name.partition(".")[0] for name in app.files()] == [text["number"]] * 2
    app.ask("DELETE", "files")


def test_scoring_that_hangs_is_ended_with_its_file_and_started_again(app):
    app.until(lambda state: state["ready"])
    # The one of an earlier test may still be ending.
    scoring = max(psutil.Process(app.process.pid).children(), key=psutil.Process.create_time)
    scoring.suspend()
    _, clip = app.upload((SAMPLES / "genuine.mp4").read_bytes())
    app.until(lambda state: state["files"][-1]["state"] == "scoring")
    assert app.ask("DELETE", f"files/{clip['number']}")[0] == 200 and app.files() == []
    app.until(lambda state: not state["ready"])
    _, file = app.upload(b"no picture", "notes.txt")
    assert app.finished(file["number"])["state"] == "done"
    app.ask("DELETE", "files")


def test_verbose_tells_of_each_file_by_its_own_name(tmp_path):
    with App(tmp_path, "-vv", "--frames", 2) as app:
        for body, name in (((SAMPLES / "blended.mp4").read_bytes(), "talk\n1.mp4"), (b"no picture", "notes.txt")):
            app.finished(app.upload(body, name)[1]["number"])
        app.ask("DELETE", "files")
        app.process.send_signal(signal.SIGTERM)
        _, stderr = app.process.communicate(timeout=20)
    lines = stderr.splitlines()
    assert all(line.startswith("tfdfd.") for line in lines[1:]), stderr
    for wanted in (
        r"detect.detector: talk\\n1\.mp4: P\(fake\) 0\.\d+ is fake: ",
        r"detect.detector: talk\\n1\.mp4: face 1, frame \d+ at ",
        r"app.server: notes\.txt: 10 bytes uploaded; files before it: 0",
        r"detect.detector: notes\.txt: None, not decoded, unsupported",
        r"app.server: notes\.txt: deleted",
    ):
        assert any(re.match(f"tfdfd.{wanted}", line) for line in lines), (wanted, stderr)
    assert str(tmp_path) not in stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signal_ends_everything(tmp_path, name):
    with App(tmp_path) as app, app.begin_upload():
        app.upload((SAMPLES / "genuine.mp4").read_bytes())
        assert len(app.files()) == 2
        children = psutil.Process(app.process.pid).children(recursive=True)
        app.process.send_signal(getattr(signal, name))
        _, stderr = app.process.communicate(timeout=20)
        assert app.process.returncode == 0 and "Traceback" not in stderr
        assert list(app.place.iterdir()) == []
        assert children and not psutil.wait_procs(children, timeout=20)[1]


def test_what_a_killed_session_left_is_removed_by_the_next_one(tmp_path):
    with App(tmp_path) as other, App(tmp_path) as app:
        app.upload(b"left")
        other.upload(b"kept")
        app.process.kill()
        app.process.wait()
        assert len(other.files()) == 2
        with App(tmp_path) as third:
            assert len(list(third.place.iterdir())) == 2 and len(third.files()) == 1
            assert other.state()["files"][0]["name"] == "a.mp4"


def test_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"tfdfd-app-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="set TMPDIR"), session_folder():
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--model", "tfdfd/meso5"), "meso4"), (("--max-queue", "0"), "--max-queue"), (("--port", "70000"), "--port")],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_wrong_usage_ends_with_the_reason(tmp_path, options, message):
    with App(tmp_path, *options) as app:
        _, stderr = app.process.communicate(timeout=120)
        assert app.process.returncode == 2 and message in stderr and "Traceback" not in stderr


def test_a_person_drops_clips_in_a_browser(app, tmp_path):
    for name in ("genuine.mp4", "blended.mp4"):
        (tmp_path / name).write_bytes((SAMPLES / name).read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    done = "document.querySelectorAll('#files .links .main:not([hidden])').length"
    with Browser() as browser:
        browser.open(app.address)
        browser.until("document.querySelector('#limits').textContent.includes('up to 400 kB')")
        browser.until("!document.querySelector('#status').textContent.includes('being loaded')")
        browser.run(
            "heard = []; region = document.querySelector('#status'); "
            "new MutationObserver(() => heard.push(region.textContent)).observe(region, {childList: true})"
        )
        # More files than the queue is long: the page keeps the rest.
        browser.choose_files("#pick", tmp_path / "genuine.mp4", tmp_path / "blended.mp4", tmp_path / "notes.txt")
        browser.until(f"{done} === 3")
        texts = browser.run(
            "[...document.querySelectorAll('#files li')].map((item) => item.innerText.replace(/\\s+/g, ' '))"
        )
        assert "notes.txt unknown format" in texts[0] and "blended.mp4 fake" in texts[1] and "not proof" in texts[1]
        assert "genuine.mp4 real" in texts[2] and "does not prove" in texts[2]
        assert "support for fake over real. A score like this is" in texts[1] and "Likelihood" not in texts[0]
        said = " ".join(browser.run("heard"))
        # A first frame's score is shown for less than a second on an idle machine, but announced before the verdict.
        assert "genuine.mp4: real, P(fake) 0." in said and re.search(r"P\(fake\) 0\.\d{3}, no verdict yet", said)
        for width, scheme in ((1280, "light"), (360, "dark")):
            browser.show(width, 800, scheme)
            browser.screenshot(tmp_path / f"{width}.png")
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.axe_violations() == []
        # The keyboard reaches the button that deletes, and is not lost with what it deleted.
        browser.run("document.querySelector('#files li button').focus()")
        browser.press_enter()
        browser.until("document.querySelectorAll('#files li').length === 2")
        assert browser.run("document.activeElement.id") == "choose"
        browser.run("document.querySelector('#clear').click()")
        browser.until("!document.querySelectorAll('#files li').length")
        assert browser.problems == []
    assert app.files() == []
