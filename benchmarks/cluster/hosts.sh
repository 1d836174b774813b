#!/usr/bin/env bash
# Hosts for the drill on one Linux machine: each has its own network, processes, name, /tmp, /run,
# /dev/shm, home and sshd. To Ray they are as many machines; `ray stop` sees its own host alone.
#
#   hosts.sh up DIRECTORY VENV         ctl (the laptop) 10.77.0.1, head .10, w1 .11, w2 .12
#   hosts.sh in DIRECTORY HOST COMMAND run a shell command there
#   hosts.sh kill DIRECTORY HOST       its cable first, then all of its processes
#   hosts.sh down DIRECTORY            end them all and remove what was made, DIRECTORY apart
#
# As root. DIRECTORY and VENV may not lie in /tmp or /run, which each host has for itself.
#   DIRECTORY/shared   what stands for NFS: the same directory on head, w1 and w2; ctl has none
#   DIRECTORY/home     the home of root on each host, another one on each
set -euo pipefail
hosts=(ctl head w1 w2)
declare -A address=([ctl]=10.77.0.1 [head]=10.77.0.10 [w1]=10.77.0.11 [w2]=10.77.0.12)
at=$2

boot() { # in the host's own namespaces, as its process 1
    local host=$1 own=$at/hosts/$1
    mount --make-rprivate /
    mount -t proc proc /proc
    mount --bind "$own/home" "$at/home"
    [ "$host" = ctl ] || mount --bind "$at/nfs" "$at/shared"
    # A host's home is that of its own root, and the machine's is left alone.
    mount --bind "$at/passwd" /etc/passwd
    mount --bind "$own/hosts" /etc/hosts
    for each in /tmp /run /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs $each; done
    mkdir -p -m 755 /run/sshd
    hostname "$host"
    cd "$at/home"
    exec /usr/sbin/sshd -D -e -f "$own/sshd_config"
}

init() { # the host's process 1, by its number outside
    pgrep -P "$(cat "$at/hosts/$1/unshare.pid")"
}

start() {
    local host=$1 venv=$2 own=$at/hosts/$1
    mkdir -p "$own/home/.ssh"
    ln -sfn "$venv" "$own/home/venv"
    # What the set-up's pip would do: the checkout is importable.
    echo "export PYTHONPATH=$at/home/spinlock" > "$own/home/.bashrc"
    echo '. ~/.bashrc' > "$own/home/.bash_profile"
    cp "$at/key.pub" "$own/home/.ssh/authorized_keys"
    [ "$host" != ctl ] || cp "$at/key" "$own/home/.ssh/spinlock-cluster"
    # As Debian has it, whose trap for gloo is part of the drill.
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$host" > "$own/hosts"
    ssh-keygen -q -t ed25519 -N '' -f "$own/hostkey"
    cat > "$own/sshd_config" <<S
ListenAddress ${address[$host]}
HostKey $own/hostkey
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile none
Subsystem sftp internal-sftp
S
    ip netns add "spin-$host"
    ip -n "spin-$host" link set lo up
    ip link add "to-$host" netns spin-switch type veth peer name eth0 netns "spin-$host"
    ip -n spin-switch link set "to-$host" master bridge up
    ip -n "spin-$host" address add "${address[$host]}/24" dev eth0
    ip -n "spin-$host" link set eth0 up
    # No way out; but Ray finds its own address by asking which way leads there.
    ip -n "spin-$host" route add default via "${address[ctl]}" 2> /dev/null || true
    setsid ip netns exec "spin-$host" unshare --mount --pid --fork --uts --ipc --kill-child \
        bash "$0" boot "$at" "$host" > "$own/log" 2>&1 < /dev/null &
    echo $! > "$own/unshare.pid"
}

case $1 in
up)
    mkdir -p "$at"/{home,shared,nfs,hosts}
    sed "s#^root:.*#root:x:0:0::$at/home:/bin/bash#" /etc/passwd > "$at/passwd"
    ssh-keygen -q -t ed25519 -N '' -f "$at/key"
    ip netns add spin-switch
    ip -n spin-switch link add bridge type bridge
    ip -n spin-switch link set bridge up
    for host in "${hosts[@]}"; do start "$host" "$3"; done
    ;;
boot) boot "$3" ;;
in)
    exec nsenter --target "$(init "$3")" --mount --pid --net --uts --ipc \
        env -i HOME="$at/home" TERM=dumb bash -lc "cd ~; $4"
    ;;
kill)
    ip -n "spin-$3" link set eth0 down
    kill -KILL "$(init "$3")"
    ;;
down)
    for host in "${hosts[@]}"; do
        if pid=$(init "$host" 2> /dev/null); then kill -KILL "$pid"; fi
    done
    for host in "${hosts[@]}" switch; do ip netns del "spin-$host" 2> /dev/null || true; done
    ;;
esac
