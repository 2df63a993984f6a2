#!/usr/bin/env bash
# Run by launch/tpu_pod.sh on each worker; needs bash, flock and a Python only.
#
#   bash vmae_jax/launch/tpu_worker.sh install
#   bash vmae_jax/launch/tpu_worker.sh start NAME COMMAND…     (in the environment, under the supervisor)
#   bash vmae_jax/launch/tpu_worker.sh status|logs|stop NAME
#
# A job's log, process id and exit code are in ~/.vmae/NAME.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
action=${1:-} name=${2:-}
folder=$HOME/.vmae/$name

# The software of a TPU VM may have a Python older than 3.11: uv installs a newer one.
provide_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      return
    fi
  done
  python3 -m pip install --quiet --user uv
  python3 -m uv python install --quiet 3.12
  PYTHON=$(python3 -m uv python find 3.12)
  export PYTHON
}

running() { # the lock is held by the job and all that it started
  [ -e "$folder/lock" ] && ! flock --nonblock "$folder/lock" true
}

show_state() {
  local state=none
  if running; then
    state=running
  elif [ -e "$folder/stopped" ]; then
    state=stopped
  elif [ -e "$folder/status" ]; then
    state="ended $(cat "$folder/status")"
  elif [ -e "$folder/pid" ]; then
    state=lost # the machine went down under it
  fi
  echo "vmae-worker $(hostname) $state"
}

start() {
  mkdir -p "$folder"
  if running; then
    echo "vmae-worker $(hostname) is already running"
    return
  fi
  rm -f "$folder/status" "$folder/stopped"
  setsid nohup bash "${BASH_SOURCE[0]}" supervise "$name" "$@" >>"$folder/log" 2>&1 </dev/null &
  echo "vmae-worker $(hostname) started"
}

supervise() {
  local status=0 child
  exec 9>"$folder/lock"
  flock --nonblock 9 || exit 0 # another start came first
  echo $$ >"$folder/pid"
  # shellcheck source=environment.sh
  VMAE_EXTRA=${VMAE_EXTRA-tpu} source "$project/launch/environment.sh"
  cd "$project"
  export VMAE_DISTRIBUTED=${VMAE_DISTRIBUTED-auto}
  python -m vmae_jax.runtime.supervisor -- "$@" &
  child=$!
  trap 'kill -TERM "$child"' TERM INT
  while :; do # a signal ends `wait`, not the child
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || break
  done
  echo "$status" >"$folder/status"
}

stop() {
  local seconds=0
  if ! running; then
    show_state
    return
  fi
  touch "$folder/stopped"
  kill -TERM "$(cat "$folder/pid")"
  while running && [ "$seconds" -lt 600 ]; do
    sleep 1
    seconds=$((seconds + 1))
  done
  show_state
}

if [ "$action" != install ] && ! [[ $name =~ ^[a-z][-a-z0-9]*$ ]]; then
  echo "usage: bash launch/tpu_worker.sh install | start NAME COMMAND… | status|logs|stop NAME" >&2
  exit 2
fi
case $action in
  install)
    provide_python
    export VMAE_EXTRA=${VMAE_EXTRA-tpu}
    # shellcheck source=environment.sh
    source "$project/launch/environment.sh"
    echo "vmae-worker $(hostname) installed"
    ;;
  start) start "${@:3}" ;;
  supervise) supervise "${@:3}" ;;
  status) show_state ;;
  logs)
    touch "$folder/log"
    exec tail -n 200 -F "$folder/log"
    ;;
  stop) stop ;;
  *)
    echo "launch/tpu_worker.sh: the command must be install, start, status, logs or stop, got $action" >&2
    exit 2
    ;;
esac
