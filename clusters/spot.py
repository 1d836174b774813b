"""Wait on a spot machine of AWS until it is to be taken back, then drain its node in Ray.

    nohup python clusters/spot.py &        on each spot worker, after `ray start`

AWS tells two minutes before, and only who asks. Trials on a drained node save where they are and
go on elsewhere, which costs them no retry.
"""

import json
import os
import time
from datetime import datetime
from typing import Any

import ray
import requests
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

METADATA = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254")
_EVERY_SECONDS = 5.0


def notice() -> dict[str, Any] | None:
    """What AWS is about to do with this machine, and when; None while it stays."""
    session = requests.put(
        f"{METADATA}/latest/api/token",
        headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"},
        timeout=5,
    )
    session.raise_for_status()
    answer = requests.get(
        f"{METADATA}/latest/meta-data/spot/instance-action",
        headers={"X-aws-ec2-metadata-token": session.text},
        timeout=5,
    )
    if answer.status_code == requests.codes.not_found:
        return None
    answer.raise_for_status()
    found: dict[str, Any] = json.loads(answer.text)
    return found


def drain(deadline: datetime) -> None:
    """Tell Ray that this node goes at `deadline`."""
    ray.init(address="auto", log_to_driver=False)
    context = ray.get_runtime_context()
    accepted, why = ray._raylet.GcsClient(address=context.gcs_address).drain_node(
        context.get_node_id(),
        DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "AWS takes the spot machine back",
        int(deadline.timestamp() * 1000),
    )
    print("drained" if accepted else f"not drained: {why}", flush=True)


def main() -> None:
    """Ask every five seconds; a machine that does not answer is asked again."""
    while True:
        try:
            found = notice()
        except requests.RequestException as error:
            print(error, flush=True)
            found = None
        if found is not None:
            drain(datetime.fromisoformat(found["time"]))
            return
        time.sleep(_EVERY_SECONDS)


if __name__ == "__main__":
    main()
