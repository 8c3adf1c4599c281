"""A headless Chromium for tests, over its DevTools protocol; tests skip where `$TFDFD_CHROMIUM` names none."""

import asyncio
import base64
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--disable-site-isolation-trials", "--single-process", "--remote-debugging-port=0"),
)


class Browser:
    """One page of a browser process. `$TFDFD_AXE` names axe-core's `axe.min.js`, if it is to be checked, too.

    Attributes:
        problems: errors on the page's console, and what its policy refused.
    """

    def __enter__(self):
        program = os.environ.get("TFDFD_CHROMIUM")
        if not program:
            pytest.skip("no browser: set TFDFD_CHROMIUM to a Chromium (headless shell)")
        self.problems, self._number = [], 0
        self._profile = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [program, *ARGUMENTS, f"--user-data-dir={self._profile.name}", "about:blank"],
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = iter(self._process.stderr.readline, "")
        port = next(match[1] for line in lines if (match := re.search(r"ws://127.0.0.1:(\d+)/", line)))
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._connect(port))
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        self._loop.run_until_complete(self._http.close())
        self._loop.close()
        self._process.kill()
        self._process.communicate()
        self._profile.cleanup()

    async def _connect(self, port):
        import aiohttp

        self._http = aiohttp.ClientSession()
        async with self._http.get(f"http://127.0.0.1:{port}/json/list") as response:
            target = next(target for target in await response.json() if target["type"] == "page")
        self._socket = await self._http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)

    def _call(self, method, **parameters):
        async def call():
            self._number += 1
            await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
            while (message := await self._socket.receive_json(timeout=60)).get("id") != self._number:
                event, values = message.get("method"), message.get("params", {})
                if event == "Runtime.exceptionThrown" or (
                    event == "Log.entryAdded" and values["entry"]["level"] == "error"
                ):
                    self.problems.append(values)
            return message

        message = self._loop.run_until_complete(call())
        assert "error" not in message, message
        return message["result"]

    def open(self, address):
        """Goes to an address."""
        self._call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def run(self, code):
        """The value of an expression of JavaScript."""
        result = self._call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, condition, seconds=240):
        """Waits until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < deadline, (condition, self.run("document.body.innerText"))
            time.sleep(0.05)

    def choose_files(self, selector, *files):
        """Gives files to a file input, as its dialog would."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def press_enter(self):
        """Presses and releases Enter."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self._call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        self._call("Input.dispatchKeyEvent", type="keyUp", **key)

    def show(self, width, height, scheme="light", media=""):
        """Sets the size of the page, the color scheme that the reader prefers, and the medium, such as `print`."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._call(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def screenshot(self, file):
        """Writes a PNG of the whole page."""
        picture = self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        Path(file).write_bytes(base64.b64decode(picture))

    def axe_violations(self):
        """Ids and elements of what axe-core finds; nothing if it is not given."""
        if not os.environ.get("TFDFD_AXE"):
            return []
        self.run(Path(os.environ["TFDFD_AXE"]).read_text("utf-8"))
        return self.run(
            "axe.run().then((found) => found.violations.map((one) => [one.id, one.nodes.map((node) => node.html)]))"
        )
