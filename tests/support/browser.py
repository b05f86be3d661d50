"""Pages in a headless Chromium, led through a pair of pipes: what they show, say, ask of the network, and print."""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-default-apps", "--mute-audio", "--remote-debugging-pipe"),
)
SECONDS = 60


def found():
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """One page of a browser; `errors` and `requests` are what it has said on its console, and asked for."""

    def __init__(self, browser):
        self._browser = browser
        target = browser.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = browser.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = attached["sessionId"]
        self.errors, self.requests = [], []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, parameters=None):
        return self._browser.call(method, parameters, self._session, self._note)

    def _note(self, event):
        method, found = event.get("method"), event.get("params", {})
        if method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.errors.append(found["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(found["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.errors.append(str(found["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self.errors.append(f"a dialog: {found['message']}")

    def show(self, path, width=1200, height=900, dark=False, language="en", script=True, bypass=False):
        """Open a file at a width, in a colour scheme and a language, with or without scripts."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
        self.call("Emulation.setScriptExecutionDisabled", {"value": not script})
        self.call("Emulation.setUserAgentOverride", {"userAgent": "Chromium", "acceptLanguage": language})
        self.call("Page.setBypassCSP", {"enabled": bypass})
        self.call("Page.navigate", {"url": f"file://{path}"})
        end = time.monotonic() + SECONDS
        while self.evaluate("document.readyState + location.href") != f"complete{self.address(path)}":
            assert time.monotonic() < end, "the page does not load"
            time.sleep(0.02)

    def address(self, path):
        from urllib.parse import quote

        return f"file://{quote(str(path))}"

    def evaluate(self, expression):
        """Return the value of an expression; a promise's, once it has it."""
        given = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", given)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", {"type": kind, "key": key, "windowsVirtualKeyCode": code})

    def picture(self, path):
        """Save what the whole page looks like."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.call("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self):
        return base64.b64decode(self.call("Page.printToPDF", {"preferCSSPageSize": True})["data"])


class Browser:
    def __init__(self, process, writing, reading):
        self._process, self._writing, self._reading = process, writing, reading
        self._numbers, self._rest = itertools.count(1), b""

    def call(self, method, parameters=None, session=None, note=lambda event: None):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters or {}}
        os.write(self._writing, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == number:
                assert "error" not in found, (method, found["error"])
                return found["result"]
            note(found)

    def _read(self):
        while b"\0" not in self._rest:
            assert select.select([self._reading], [], [], SECONDS)[0], "the browser does not answer"
            data = os.read(self._reading, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextlib.contextmanager
def opened(profile):
    """Start a browser with a new profile, and yield one page of it."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    line = [found(), *QUIET, f"--user-data-dir={profile}"]
    # it reads from 3 and writes to 4
    command = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *line]
    process = subprocess.Popen(
        command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(Browser(process, ours_out, ours_in))
    finally:
        process.kill()
        process.wait()
        os.close(ours_in)
        os.close(ours_out)
