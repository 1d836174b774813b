"""A headless Chromium for tests of pages, spoken to in its own protocol; nothing to install."""

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")


def read_page(
    url: str,
    *texts: str,
    click: str | None = None,
    headers: Mapping[str, str] | None = None,
    screenshot: Path | None = None,
    size: tuple[int, int] = (1200, 700),
    patience: float = 60,
) -> str:
    """The page's text once it holds all of `texts`, which it must after so many seconds.

    `click` is a CSS selector of what is clicked as soon as it is there.
    """
    assert CHROMIUM is not None
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}"]
        command += [f"--window-size={size[0]},{size[1]}", "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as browser:
            try:
                port = _port(Path(profile) / "DevToolsActivePort")
                looking = _look(port, url, texts, click, headers or {}, screenshot, patience)
                told = asyncio.run(looking)
            finally:
                browser.terminate()
    missing = [text for text in texts if text not in told]
    assert not missing, f"{url} does not say {missing}, but:\n{told}"
    return told


def _port(file: Path) -> int:
    deadline = time.monotonic() + 60
    while not (file.is_file() and len(file.read_text().splitlines()) > 1):
        assert time.monotonic() < deadline, "chromium did not start"
        time.sleep(0.1)
    return int(file.read_text().splitlines()[0])


async def _look(
    port: int,
    url: str,
    texts: tuple[str, ...],
    click: str | None,
    headers: Mapping[str, str],
    screenshot: Path | None,
    patience: float,
) -> str:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            page = next(each for each in await answer.json() if each["type"] == "page")
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            asked = 0

            async def call(method: str, **parameters: Any) -> dict[str, Any]:
                nonlocal asked
                asked += 1
                await socket.send_json({"id": asked, "method": method, "params": parameters})
                while True:
                    message = json.loads((await socket.receive()).data)
                    if message.get("id") == asked:
                        found: dict[str, Any] = message.get("result", {})
                        return found

            async def evaluate(code: str) -> Any:
                found = await call("Runtime.evaluate", expression=code, returnByValue=True)
                return found.get("result", {}).get("value")

            await call("Network.enable")
            await call("Network.setExtraHTTPHeaders", headers=dict(headers))
            await call("Page.navigate", url=url)
            told, clicked, deadline = "", click is None, time.monotonic() + patience
            while time.monotonic() < deadline:
                await asyncio.sleep(0.5)
                if not clicked:
                    here = f"document.querySelector({json.dumps(click)})"
                    clicked = bool(await evaluate(f"{here} && ({here}.click(), true)"))
                told = await evaluate("document.body ? document.body.innerText : ''") or ""
                if all(text in told for text in texts):
                    break
            if screenshot is not None:
                await asyncio.sleep(1.5)  # what moves into its place
                picture = await call("Page.captureScreenshot", format="png")
                screenshot.write_bytes(base64.b64decode(picture["data"]))
            return told
