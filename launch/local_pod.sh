#!/usr/bin/env bash
# A pod on this machine: N real processes that train as one job (jax.distributed, gloo), restarted
# together when one is lost, resuming from the last checkpoint.
#
#   bash launch/local_pod.sh [--dry-run] N train --config=configs/quickstart.py --workdir=run …
#
#   VMAE_DEVICES     virtual CPU devices of each process (default 1)
#   VMAE_HEARTBEAT   seconds after which a dead process is noticed (default 10)
#   VMAE_GRACE       seconds that the others have to end, once one has (default 60)
set -euo pipefail

dry=
if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
count=${1:-}
if ! [[ $count =~ ^[1-9][0-9]*$ ]] || [ $# -lt 2 ]; then
  echo "usage: bash launch/local_pod.sh [--dry-run] N train --config=FILE --workdir=FOLDER …" >&2
  exit 2
fi
shift

devices=${VMAE_DEVICES:-1}
command=(python -m vmae_jax.runtime.supervisor "--processes=$count" "--grace=${VMAE_GRACE:-60}" -- vmae "$@")
if [ -n "$dry" ]; then
  echo "JAX_PLATFORMS=cpu, $devices devices a process, heartbeat ${VMAE_HEARTBEAT:-10} s:"
  printf '%q ' "${command[@]}"
  echo
  exit
fi
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
export JAX_PLATFORMS=cpu VMAE_HEARTBEAT=${VMAE_HEARTBEAT:-10}
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
exec "${command[@]}"
