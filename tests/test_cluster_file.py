"""The files for `ray up`, as far as they can be held without machines: nothing is started here.

benchmarks/cluster runs clusters/local.yaml on hosts of its own.
"""

import copy
import ipaddress
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from ruamel.yaml import YAML

from spinlock.search.cluster import DRIVER
from spinlock.search.noa import NOA
from spinlock.search.prepare import plan

ROOT = Path(__file__).resolve().parent.parent
AWS, LOCAL = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("cluster.yaml", "clusters/local.yaml")
)
RAY_START = re.compile(r"ray start (.*)$", re.DOTALL)


@pytest.fixture(params=[AWS, LOCAL], ids=["aws", "local"])
def described(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One of the files as it stands."""
    return read(request.param)


@pytest.fixture
def prepared(described: dict[str, Any]) -> dict[str, Any]:
    """The file as `ray up` reads it: with Ray's defaults, and set-up merged per kind of node."""
    return prepare(described)


@pytest.fixture
def aws() -> dict[str, Any]:
    """cluster.yaml in the same way."""
    return prepare(read(AWS))


@pytest.fixture
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


def read(text: str) -> dict[str, Any]:
    config: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return config


def prepare(config: dict[str, Any]) -> dict[str, Any]:
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    return prepared


def home(config: dict[str, Any]) -> str:
    return f"/home/{config['auth']['ssh_user']}"


def head(config: dict[str, Any]) -> dict[str, Any]:
    node_type: dict[str, Any] = config["available_node_types"][config["head_node_type"]]
    return node_type


def workers(config: dict[str, Any]) -> list[dict[str, Any]]:
    types = config["available_node_types"]
    return [node for name, node in types.items() if name != config["head_node_type"]]


def start_commands(config: dict[str, Any]) -> list[str]:
    """The commands that start Ray: one on the head, one on a worker."""
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [command for command in commands if RAY_START.search(command)]


def flags(command: str) -> dict[str, Any]:
    """What `ray start` itself reads from a command; raises click's UsageError for a bad flag."""
    found = RAY_START.search(command)
    assert found is not None
    return start.make_context("ray start", shlex.split(found[1])).params


def test_ray_accepts_the_file(prepared: dict[str, Any]) -> None:
    validate_config(prepared)


@pytest.mark.parametrize(
    ("key", "misspelt"), [("idle_timeout_minutes", "idle_timeout_minute"), ("auth", "auht")]
)
def test_ray_refuses_a_misspelt_key(described: dict[str, Any], key: str, misspelt: str) -> None:
    described[misspelt] = described.pop(key)
    with pytest.raises(jsonschema.ValidationError, match=misspelt):
        validate_config(prepare_config(described))


def test_ray_would_start_nothing_that_the_file_does_not_say(
    described: dict[str, Any], prepared: dict[str, Any]
) -> None:
    """Ray's own defaults open the dashboard to the world and install a nightly build."""
    for key, value in prepared.items():
        if key.endswith("_commands") and key not in described:
            assert value == [], f"{key} is Ray's default"
    if "available_node_types" in described:
        assert prepared["available_node_types"].keys() == described["available_node_types"].keys()


def test_every_command_is_one_that_a_shell_and_ray_can_read(prepared: dict[str, Any]) -> None:
    for key, commands in prepared.items():
        if key.endswith("_commands"):
            for command in commands:
                subprocess.run(["bash", "-n", "-c", command], check=True)
    assert [flags(command)["head"] for command in start_commands(prepared)] == [True, False]


def test_set_up_installs_the_checkout_with_our_pins(
    prepared: dict[str, Any], pins: dict[str, str]
) -> None:
    checkout = next(remote for remote, here in prepared["file_mounts"].items() if here == ".")
    assert checkout == f"{home(prepared)}/spinlock"
    for kind in ("head_setup_commands", "worker_setup_commands"):
        installs = [command for command in prepared[kind] if "pip install" in command]
        assert installs[0].startswith("cd ~/spinlock && ")
        assert installs[0].endswith("pip install -q -c constraints.txt -e .")
        for other in installs[1:]:  # nothing floats
            assert re.search(r"pip install -q \S+==[\d.]+$", other)
    # What was pinned is what these tests run with, and what the package itself asks for.
    assert pins["ray"] == version("ray")
    asked = [Requirement(line) for line in requires("spinlock") or []]
    (ray,) = [requirement for requirement in asked if requirement.name == "ray"]
    assert ray.specifier.contains(pins["ray"])


def test_the_commands_in_its_comments_install_what_its_set_up_installs(
    aws: dict[str, Any],
) -> None:
    """`ray up` needs boto3 on both ends."""
    assert len(set(re.findall(r"boto3==\S+", AWS))) == 1
    assert not any("boto3" in command for command in aws["worker_setup_commands"])


def test_no_trial_trains_on_the_head_and_every_trial_is_conducted_there(
    aws: dict[str, Any],
) -> None:
    offered = head(aws)["resources"]  # Ray lets these win over the flags
    read = flags(start_commands(aws)[0])
    assert (offered["CPU"], offered["GPU"]) == (read["num_cpus"], read["num_gpus"])
    assert {DRIVER: offered[DRIVER]} == json.loads(read["resources"])
    gpus = sum(node["resources"]["GPU"] * node["max_workers"] for node in workers(aws))
    assert offered[DRIVER] >= gpus
    for node in workers(aws):
        assert DRIVER not in node["resources"]


def test_the_head_has_no_processors_and_all_the_drivers(prepared: dict[str, Any]) -> None:
    on_head, on_worker = (flags(command) for command in start_commands(prepared))
    assert on_head["num_cpus"] == on_head["num_gpus"] == 0
    assert json.loads(on_head["resources"]).keys() == {DRIVER}
    assert DRIVER not in on_worker["resources"]


def test_an_on_demand_head_and_gpu_spot_workers_from_none(aws: dict[str, Any]) -> None:
    assert "InstanceMarketOptions" not in head(aws)["node_config"]
    assert head(aws)["max_workers"] == 0
    for node in workers(aws):
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert node["min_workers"] == 0
        assert node["resources"]["GPU"] >= 1
    assert sum(node["max_workers"] for node in workers(aws)) == aws["max_workers"]


def test_what_ray_hands_on_to_aws_unread_has_only_names_that_ec2_knows(aws: dict[str, Any]) -> None:
    """Ray accepts any key there; a misspelt one would surface with the first machine, or never."""
    known = {  # of RunInstances in EC2's API reference
        *("InstanceType", "ImageId", "SecurityGroupIds", "InstanceMarketOptions", "MarketType"),
        *("MetadataOptions", "HttpTokens", "BlockDeviceMappings", "DeviceName", "Ebs"),
        *("VolumeSize", "VolumeType", "Encrypted"),
    }
    for node in (head(aws), *workers(aws)):
        assert {*re.findall(r'"(\w+)":', json.dumps(node["node_config"]))} <= known
        assert {"InstanceType", "ImageId", "SecurityGroupIds"} <= {*node["node_config"]}
        (disk,) = node["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"] is True
    assert {*aws["provider"]} == {"type", "region", "cache_stopped_nodes"}  # nor there does it look


def test_every_node_starts_with_the_token_that_is_copied_to_it(prepared: dict[str, Any]) -> None:
    assert prepared["file_mounts"][f"{home(prepared)}/.ray/auth_token"] == "~/.ray/auth_token"
    for kind in ("head_setup_commands", "worker_setup_commands"):
        assert "chmod 600 ~/.ray/auth_token" in prepared[kind]
    commands = start_commands(prepared)
    assert len(commands) == 2
    for command in commands:
        variables = command[: command.index("ray start")].split(";")[-1].split()
        assert "RAY_AUTH_MODE=token" in variables


def test_the_dashboard_listens_on_loopback(prepared: dict[str, Any]) -> None:
    for command in start_commands(prepared):
        assert ipaddress.ip_address(flags(command)["dashboard_host"]).is_loopback


def test_only_port_22_is_open_and_to_one_address(aws: dict[str, Any]) -> None:
    """Ray adds port 22 for 0.0.0.0/0 to groups that it makes: every node names its own."""
    assert "security_group" not in aws["provider"]
    for node in (head(aws), *workers(aws)):
        assert node["node_config"]["SecurityGroupIds"]
        assert "NetworkInterfaces" not in node["node_config"]
    assert "0.0.0.0/0" not in AWS
    # The group is made by the commands in the comments: one port, one address, the group itself.
    commands = re.sub(r" \\\n *#", "", AWS)
    opened = re.findall(r"authorize-security-group-ingress (.*)", commands)
    assert len(opened) == 2
    outside, inside = (shlex.split(command) for command in opened)
    assert outside[outside.index("--port") + 1] == "22"
    assert outside[outside.index("--cidr") + 1].endswith("/32")
    assert inside[inside.index("--source-group") + 1] == inside[inside.index("--group-name") + 1]


def test_each_field_to_change_is_marked_and_fails_until_it_is_changed(aws: dict[str, Any]) -> None:
    marked = re.findall(r"^ +(?:\w+: \S+ +)?# CHANGE", AWS, re.MULTILINE)
    assert len(marked) == 3
    nodes = [node["node_config"] for node in aws["available_node_types"].values()]
    assert {node["ImageId"] for node in nodes} == {"ami-change-me"}
    assert all(node["SecurityGroupIds"] == ["sg-change-me"] for node in nodes)


def test_a_worker_holds_a_trial_of_the_search_in_its_comments(aws: dict[str, Any]) -> None:
    (space,) = re.findall(r"--space (\S+)", AWS)
    overrides = re.findall(r"--set (\S+)", AWS)
    study = plan(ROOT / space, NOA(), overrides, files={"data.path": None, "tokenizer": None})
    for node in workers(aws):
        assert 0 < study.resources.gpus_per_worker <= node["resources"]["GPU"]
        assert study.resources.cpus_per_worker <= node["resources"]["CPU"]


def test_the_file_describes_no_experiment(described: dict[str, Any]) -> None:
    spaces = {path.stem for path in (ROOT / "search_spaces").glob("*.yaml")}
    words = set(re.findall(r"\w+", json.dumps(described)))
    assert not words & (spaces | {"tune_noa", "search_spaces"})


def test_listed_hosts_are_all_workers_at_addresses_that_are_nobodys_until_changed() -> None:
    """The addresses are of RFC 5737, for documentation; `~/.ssh` holds no key of that name."""
    described = read(LOCAL)
    provider = described["provider"]
    addresses = [provider["head_ip"], *provider["worker_ips"]]
    assert all(ipaddress.ip_address(ip) in ipaddress.ip_network("192.0.2.0/24") for ip in addresses)
    count = len(provider["worker_ips"])
    assert described["min_workers"] == described["max_workers"] == count
    assert LOCAL.count("# CHANGE") - LOCAL.count("# CHANGE THESE") == 4


def test_listed_hosts_are_started_around_the_traps_of_ray() -> None:
    described = read(LOCAL)
    on_head, on_worker = start_commands(described)
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in on_head
    assert "GLOO_SOCKET_IFNAME=$(ip -o route get" in on_worker
    for line in re.findall(r"^#   .*ray up .*$", LOCAL, re.MULTILINE):
        assert "RAY_UP_enable_autoscaler_v2=0 " in line


def test_the_interface_that_leads_to_the_head_is_read_from_the_route() -> None:
    command = next(c for c in read(LOCAL)["worker_start_ray_commands"] if "GLOO" in c)
    (pick,) = re.findall(r"\| (sed '[^']*')\)", command)
    shown = "10.0.0.1 dev enp3s0 src 10.0.0.7 uid 0 \\    cache"
    done = subprocess.run(["bash", "-c", pick], input=shown, capture_output=True, text=True)
    assert done.stdout.strip() == "enp3s0"


@pytest.mark.parametrize("reached", [True, False])
def test_down_stops_the_head_and_then_each_worker_and_names_one_that_it_did_not_reach(
    tmp_path: Path, reached: bool
) -> None:
    """`ray` and `ssh` are stand-ins that write down how they were called."""
    calls = tmp_path / "calls"
    for name, code in (("ray", 0), ("ssh", 0 if reached else 255)):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\nexit {code}\n')
        program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, str(ROOT / "clusters/down.py"), str(ROOT / "clusters/local.yaml")],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    head, *ssh = calls.read_text().splitlines()
    assert head == f"ray down --yes {ROOT / 'clusters/local.yaml'}"
    assert [call.split("spinlock@")[1].split()[0] for call in ssh] == ["192.0.2.11", "192.0.2.12"]
    assert all("ray stop --force" in call for call in ssh)
    assert done.returncode == (0 if reached else 1)
    assert done.stdout.count("NOT REACHED") == (0 if reached else 2)
