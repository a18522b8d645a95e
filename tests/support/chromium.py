"""Chromium without a window, spoken to through a pipe: what a page logs, asks of the network, and how wide it is."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
TIMEOUT_S = 120.0
# All that `page.js` has to draw is drawn, or says why not.
DRAWN = (
    "document.readyState == 'complete' && "
    "[...document.querySelectorAll('.chart')].every(one => one.querySelector('svg') || one.textContent)"
)


def find_chromium() -> str | None:
    """The browser's program; None where there is none."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


@dataclass
class Tab:
    """A page of a browser.

    Attributes:
        errors: What it logged as errors, exceptions that nothing caught included.
        requests: URLs that it asked for.
    """

    reads: int
    writes: int
    session: str = ""
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _sent: int = 0
    _rest: bytes = b""

    def call(self, method: str, **params: Any) -> Any:
        """What the browser answers."""
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._sent:
                assert "error" not in found, found["error"]
                return found["result"]

    def open(self, path: Path, *, width: int, height: int = 900, dark: bool = False, printed: bool = False) -> None:
        """Opens a file and waits until it is there and its charts are drawn."""
        self.errors.clear()
        self.requests.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media="print" if printed else "", features=features)
        self.call("Page.navigate", url=path.resolve().as_uri())
        stop = time.monotonic() + TIMEOUT_S
        while not self.value(DRAWN):
            assert time.monotonic() < stop, f"{path} was not drawn in {TIMEOUT_S} s"
            time.sleep(0.1)

    def value(self, expression: str) -> Any:
        """What JavaScript makes of an expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Writes all of the page as a PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self.reads], [], [], TIMEOUT_S)
            assert ready, "the browser does not answer"
            self._rest += os.read(self.reads, 1 << 20)
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        method, params = found.get("method"), found.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        return found


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A new browser with one tab, whose files lie in a folder of their own."""
    program = find_chromium()
    assert program is not None
    to_browser, from_browser = os.pipe(), os.pipe()
    # The browser reads commands from its file 3 and answers on its file 4.
    shell = f'exec "$0" "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
    process = subprocess.Popen(
        ["bash", "-c", shell, program, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(to_browser[0], from_browser[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        tab = Tab(reads=from_browser[0], writes=to_browser[1])
        target = tab.call("Target.createTarget", url="about:blank")["targetId"]
        tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.call(f"{domain}.enable")
        yield tab
    finally:
        process.terminate()
        process.wait(timeout=60)
        os.close(to_browser[1])
        os.close(from_browser[0])
