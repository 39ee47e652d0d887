"""Drives Chromium over its own protocol: opens a page, runs JavaScript in it, takes pictures."""

import base64
import json
import pathlib
import shutil
import subprocess
import time
import urllib.request


def chromium():
    """Returns the path of a Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Browser:
    """A window of a headless Chromium."""

    def __init__(self, folder, width=1200, height=900, *, dark=False):
        from websocket import create_connection

        scheme = ["--force-dark-mode"] if dark else []
        self.process = subprocess.Popen(
            [
                chromium(), "--headless=new", "--no-sandbox", "--disable-gpu",
                "--disable-dev-shm-usage", "--remote-debugging-port=0", "--no-first-run",
                f"--user-data-dir={folder}",
                f"--window-size={width},{height}", *scheme, "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        place = pathlib.Path(folder, "DevToolsActivePort")
        until = time.monotonic() + 60
        while not place.is_file() or "\n" not in place.read_text():
            assert time.monotonic() < until, "Chromium did not start"
            time.sleep(0.02)
        port = place.read_text().split()[0]
        targets = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/json").read())
        page = next(target for target in targets if target["type"] == "page")
        self.socket = create_connection(
            page["webSocketDebuggerUrl"], timeout=60, suppress_origin=True
        )
        self.number = 0
        self.errors = []
        self("Page.enable")
        self("Runtime.enable")
        media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self("Emulation.setEmulatedMedia", features=media)
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def __call__(self, method, **params):
        """Calls a method of the protocol and returns its result."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(message["params"]["exceptionDetails"])
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    def open(self, url):
        """Goes to a page."""
        self("Page.navigate", url=url)

    def run(self, script):
        """Returns what an expression is; a promise is waited for."""
        found = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script, seconds=30):
        """Waits until an expression is true, and returns it."""
        end = time.monotonic() + seconds
        while True:
            try:
                if value := self.run(script):
                    return value
            except AssertionError:
                if time.monotonic() > end:
                    raise
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def type(self, text):
        """Types a text where the focus is."""
        self("Input.insertText", text=text)

    def press(self, key, code=0):
        """Presses a key where the focus is."""
        for kind in ("keyDown", "keyUp"):
            self(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                text="\r" if key == "Enter" else "",
            )  # fmt: skip

    def click(self, script):
        """Clicks, as a mouse does, into the middle of the element that an expression is."""
        x, y = self.run(
            f"(() => {{ const e = {script}; e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2];"
            "})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path, *, whole=True):
        """Writes a PNG of the page."""
        data = self("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self):
        """Ends the browser."""
        self.socket.close()
        self.process.kill()
        self.process.wait()
