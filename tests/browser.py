"""A browser without a window, driven by its debugging pipe: what pages look like and complain about."""

import base64
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
           "--disable-dev-shm-usage", "--disable-background-networking", "--remote-debugging-pipe")  # fmt: skip


class Browser:
    """One tab. Messages are JSON with a NUL byte behind them."""

    def __init__(self, send, receive):
        self._send, self._receive, self._rest, self._number = send, receive, b"", 0
        self.complaints = []  # of pages: errors and warnings of the console, what could not be loaded
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        return self._until(lambda found: found.get("id") == self._number)["result"]

    def _until(self, wanted):
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._receive, 1 << 20)
                assert part, "the browser has ended"
                self._rest += part
            text, _, self._rest = self._rest.partition(b"\0")
            found = json.loads(text)
            if found.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                self.complaints.append(found["params"])
            if found.get("method") == "Network.requestWillBeSent":
                url = found["params"]["request"]["url"]
                if not url.startswith(("file:", "data:", "about:")):
                    self.complaints.append(url)
            if wanted(found):
                assert "error" not in found, found
                return found

    def open(self, path, width, dark):
        """Opens a file on a screen of that width."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=Path(path).absolute().as_uri())
        self._until(lambda found: found.get("method") == "Page.loadEventFired")

    def ask(self, expression):
        """The value of an expression of JavaScript in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path, top=0, height=None):
        """Writes a picture of the page, or of a part of it."""
        width, whole = self.ask("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": top, "width": width, "height": min(height or whole, 16000), "scale": 1}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        Path(path).write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browser(profile):
    """A browser whose files are in the folder `profile`."""
    (to_read, to_send), (from_read, from_send) = os.pipe(), os.pipe()
    for number in (to_read, from_send):
        os.set_inheritable(number, True)
    words = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"]
    script = f'exec "$@" 3<&{to_read} 4>&{from_send}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *words], pass_fds=(to_read, from_send), stderr=subprocess.DEVNULL
    )
    os.close(to_read)
    os.close(from_send)
    try:
        yield Browser(to_send, from_read)
    finally:
        os.close(to_send)
        os.close(from_read)
        process.kill()
        process.wait()
