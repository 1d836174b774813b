"""A real S3-compatible server on loopback: rclone's, which serves the directories below a root."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RCLONE = Path(sys.executable).with_name("rclone")


@dataclass(frozen=True)
class Store:
    """A running server; each directory in `root` is a bucket."""

    root: Path
    port: int
    environment: dict[str, str]
    log: Path

    def uri(self, path: str) -> str:
        return f"s3://{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def asked(self, words: str) -> int:
        """How many of the requests so far have these words in their line of the server's log."""
        return sum(words in line for line in self.log.read_text().splitlines())


@contextmanager
def served(root: Path) -> Iterator[Store]:
    key, secret = secrets.token_hex(8), secrets.token_hex(16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = root.with_name("server.log")
    # What is put into a bucket is to be seen at once, not after the five minutes of its cache.
    options = ["--addr", f"127.0.0.1:{port}", "--dir-cache-time", "0s", "-vv", "--log-file", log]
    process = subprocess.Popen(
        [RCLONE, "serve", "s3", root, *options],
        env=os.environ | {"RCLONE_AUTH_KEY": f'"{key},{secret}"', "RCLONE_CONFIG": os.devnull},
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(port, process)
        environment = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        yield Store(root, port, environment, log)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "the server ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no server on port {port}")
