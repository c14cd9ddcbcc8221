"""A headless Chromium, driven through its own debugging pipe: no server, no port, and no package beside it.

Messages are JSON that ends with a NUL, commands on file descriptor 3 of the browser and answers on 4. What a tab asks
the network for, says on its console and opens as a dialog is kept from its first moment on.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # containers and root have none; the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--mute-audio",
    "--no-first-run",
    "--no-default-browser-check",
    "--force-prefers-reduced-motion",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--lang=en-US",
)

ANSWER_S = 60.0


def find_chromium() -> str | None:
    """The path of a Chromium: $LITEFLOW_CHROMIUM, else the first of `NAMES` on the PATH; None if there is none."""
    named = os.environ.get("LITEFLOW_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


class BrowserError(Exception):
    """The browser refused a command, died, or said nothing for too long."""


class Chromium:
    """One process with any number of tabs. `directory`: where its profile lies."""

    def __init__(self, executable: str, directory: Path) -> None:
        here_in, their_out = os.pipe()
        their_in, here_out = os.pipe()
        log = os.open(directory / "chromium.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        # Out of the way first: what is to be put on 3 and 4 may lie there now.
        source, sink = (os.dup2(end, end + 100, inheritable=True) for end in (their_in, their_out))
        self._pid = os.posix_spawn(
            executable,
            [executable, *FLAGS, f"--user-data-dir={directory / 'profile'}", "about:blank"],
            {**os.environ, "TZ": "Europe/Berlin", "HOME": str(directory)},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, source, 3),
                (os.POSIX_SPAWN_DUP2, sink, 4),
            ],
            setpgroup=0,
        )
        for end in (their_in, their_out, source, sink, log):
            os.close(end)
        self._in, self._out = here_in, here_out
        self._buffer = b""
        self._last_id = 0
        self.tabs: dict[str, Tab] = {}
        """By session."""

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Give a command and wait for its answer; what else is said meanwhile goes to the tabs."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        deadline = time.monotonic() + ANSWER_S
        while True:
            found = self._next(deadline)
            if found.get("id") == self._last_id:
                if "error" in found:
                    raise BrowserError(f"{method}: {found['error']}")
                result: dict[str, Any] = found["result"]
                return result
            self._note(found)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise BrowserError(f"no answer for {ANSWER_S:g} s")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise BrowserError("the browser is gone")
            self._buffer += data
        first, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message

    def _note(self, message: Mapping[str, Any]) -> None:
        tab = self.tabs.get(message.get("sessionId", ""))
        if tab is not None:
            tab.note(message["method"], message["params"])

    @contextmanager
    def tab(self, *, width: int = 1400, height: int = 860, dark: bool = False) -> Iterator[Tab]:
        """A tab of that size, closed behind the block. It remembers nothing of other tabs, such as a chosen theme."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self.tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.send(f"{domain}.enable")
        tab.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        tab.be_dark(dark)
        try:
            yield tab
        finally:
            self.send("Target.disposeBrowserContext", browserContextId=context)
            del self.tabs[session]

    def close(self) -> None:
        """End it, with all that it started."""
        try:
            os.killpg(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self._pid, 0)
        os.close(self._in)
        os.close(self._out)


class Tab:
    """A page, what it asked for and what it said."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loaded = False
        self.requests: list[str] = []
        """Every address that it asked for, its own first."""
        self.complaints: list[str] = []
        """Errors and warnings of the console, exceptions, and what the policy of the page refused."""
        self.dialogs: list[str] = []

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command to this tab."""
        return self._browser.send(method, self._session, **params)

    def note(self, method: str, params: Mapping[str, Any]) -> None:
        """Something that happened in it."""
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:2000])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(params["args"])[:2000])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(params["message"])
            self.send("Page.handleJavaScriptDialog", accept=False)

    def be_dark(self, dark: bool) -> None:
        """What the system says that it prefers."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def open(self, path: Path) -> None:
        """Load a file, and wait until it is loaded."""
        self._loaded = False
        self.send("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + ANSWER_S
        while not self._loaded:
            self._browser._note(self._browser._next(deadline))

    def run(self, expression: str) -> Any:
        """The value of an expression in the page, a promise awaited; its exception is a BrowserError."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def until(self, expression: str, *, timeout_s: float = 40.0) -> None:
        """Wait until the expression is true; looked at every 10 ms."""
        late = json.dumps(f"still not so: {expression}")
        self.run(
            f"""new Promise((done, fail) => {{
              const end = performance.now() + {timeout_s * 1000};
              const look = () => {{
                let is = false;
                try {{ is = {expression} }} catch (error) {{ fail(error); return }}
                if (is) done(true);
                else if (performance.now() > end) fail(new Error({late}));
                else setTimeout(look, 10);
              }};
              look();
            }})"""
        )

    def click(self, x: float, y: float, *, count: int = 1) -> None:
        """A real click of the mouse."""
        at = {"x": x, "y": y}
        self.send("Input.dispatchMouseEvent", type="mouseMoved", **at)
        for nth in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=nth, **at)

    def press(self, key: str, code: int) -> None:
        """A key: its name and its number, as of `KeyboardEvent`."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        down: dict[str, Any] = {"type": "keyDown", "key": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", **down, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.send("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """What is to be seen, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
