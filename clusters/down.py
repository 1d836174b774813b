"""End a cluster of hosts by address: python clusters/down.py clusters/local.yaml

`ray down` of Ray 2.60 ends the head alone; on the workers log monitor and agents would stay.
"""

import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from spinlock.cli import run as command_line
from spinlock.document import plain


def main(file: Annotated[Path, typer.Argument(help="The file that `ray up` was given.")]) -> None:
    """Run `ray down`, then `ray stop` on each worker; exits with 1 if one was not reached."""
    described: Any = plain(file.read_text(encoding="utf-8"), str(file))[0]
    user, key = described["auth"]["ssh_user"], described["auth"]["ssh_private_key"]
    down = subprocess.run(["ray", "down", "--yes", str(file)], check=False).returncode
    reached = []
    for worker in described["provider"]["worker_ips"]:
        # As Ray itself goes in; a login shell reads where `ray` is.
        ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
        ssh += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        ssh += ["-o", "LogLevel=ERROR", "-i", str(Path(key).expanduser()), f"{user}@{worker}"]
        stop = subprocess.run([*ssh, "bash -lic 'ray stop --force' 2>/dev/null"], check=False)
        print(f"{worker}: {'ray stop' if stop.returncode == 0 else 'NOT REACHED'}")
        reached.append(stop.returncode == 0)
    raise typer.Exit(0 if down == 0 and all(reached) else 1)


if __name__ == "__main__":
    command_line(lambda: typer.run(main))
