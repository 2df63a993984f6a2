#!/usr/bin/env bash
# A pod on this machine: N real processes that train as one job (jax.distributed, gloo), restarted
# together when one is lost, resuming from the last checkpoint.
#
#   bash launch/local_pod.sh [--dry-run] N train --config=configs/quickstart.py --workdir=run …
#
#   VMAE_DEVICES     virtual CPU devices of each process (default 1)
#   VMAE_HEARTBEAT   seconds after which a dead process is detected (default 30, for busy machines)
#   VMAE_GRACE       seconds that the other processes have to end after the first has (default 60)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
[ $# -ge 2 ] || refuse "usage: bash launch/local_pod.sh [--dry-run] N train --config=FILE --workdir=FOLDER …"
count=$1
shift
whole N "$count"
whole VMAE_DEVICES "${VMAE_DEVICES:=1}"
whole VMAE_HEARTBEAT "${VMAE_HEARTBEAT:=30}"
whole VMAE_GRACE "${VMAE_GRACE:=60}"
check_job FOLDER "$@"

command=(env JAX_PLATFORMS=cpu "VMAE_HEARTBEAT=$VMAE_HEARTBEAT"
  "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$VMAE_DEVICES"
  python -m vmae_jax.runtime.supervisor "--processes=$count" "--grace=$VMAE_GRACE" -- vmae "$@")
if [ -n "$dry" ]; then
  show "${command[@]}"
  exit
fi
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "${command[@]}"
