"""A spot machine that AWS is about to take back is drained in Ray: clusters/spot.py."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

SPOT = Path(__file__).resolve().parent.parent / "clusters" / "spot.py"
ACTION = '{"action": "terminate", "time": "2100-01-01T00:00:00Z"}'


class Metadata(BaseHTTPRequestHandler):
    """AWS's service, version 2: to who has a session it says nothing twice, then the notice."""

    asked = 0

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self.answer(200, "session")

    def do_GET(self) -> None:
        assert self.path == "/latest/meta-data/spot/instance-action"
        if self.headers.get("X-aws-ec2-metadata-token") != "session":
            self.answer(401, "")
            return
        type(self).asked += 1
        self.answer(*((404, "") if self.asked < 3 else (200, ACTION)))

    def answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def metadata() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Trial:
    """Takes the node's place: an idle node that is drained ends at once."""

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


@pytest.fixture
def one_node(nodes_on_loopback: None) -> Iterator[str]:
    node = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_a_node_is_drained_when_aws_says_that_its_machine_goes(
    metadata: str, one_node: str
) -> None:
    trial = ray.remote(num_cpus=1)(Trial).remote()
    node = ray.get(trial.node.remote())
    environment = os.environ | {
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata,
        "RAY_ADDRESS": one_node,
    }
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(SPOT)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "drained" in done.stdout
    assert time.monotonic() - began > 10, "it asks every five seconds"
    assert ray._private.state.state.get_draining_nodes() == {node: 4102444800000}
