#!/usr/bin/env bash
# Images of HAProxy and Prometheus out of Debian's packages, under the names that docker-compose.yml
# uses: where there is no registry to take those from. Needs root and mmdebstrap.
set -euo pipefail
haproxy=${HAPROXY_IMAGE:-haproxy:3.0-alpine}
prometheus=${PROMETHEUS_IMAGE:-prom/prometheus:v3.5.0}
suite=$(. /etc/os-release; echo "$VERSION_CODENAME")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

mmdebstrap --quiet --mode=root --variant=minbase --include=haproxy,prometheus \
  --customize-hook='install --directory --owner 65534 --group 65534 "$1/prometheus"' \
  --customize-hook='rm -rf "$1/var/lib/apt/lists" "$1/var/cache/apt"' \
  "$suite" "$scratch/root.tar"
docker import --change 'USER 65534:65534' \
  --change 'CMD ["/usr/sbin/haproxy","-W","-db","-f","/usr/local/etc/haproxy/haproxy.cfg"]' \
  "$scratch/root.tar" "$haproxy"
docker import --change 'USER 65534:65534' --change 'ENTRYPOINT ["/usr/bin/prometheus"]' \
  --change 'VOLUME ["/prometheus"]' "$scratch/root.tar" "$prometheus"
