#!/usr/bin/env bash
# TPU VMs, directly or as queued resources: from nothing to a training that survives preemption.
#
#   bash launch/tpu_pod.sh [--dry-run] COMMAND NAME [OPTIONS] [-- train --config=FILE --workdir=gs://…]
#
#   run      create, install and start; then watch: a preempted TPU is created again, a lost worker is
#            restarted, and the same command resumes. Ends with the job. Ctrl-C ends the watching alone.
#   create   the TPU if it does not exist, and wait until it is ready
#   install  this project and its environment on every worker
#   start    the job on every worker where it is not running
#   status   one line per worker   logs   follow one        stop   SIGTERM: it saves and ends
#   delete   the TPU if it exists
#
#   --zone=ZONE --project=PROJECT    of Google Cloud (also $VMAE_ZONE, $VMAE_PROJECT)
#   --accelerator=TYPE               v5p-128, v5litepod-16, v6e-256, v4-32 (create, run)
#   --runtime=VERSION                of the VM's software (default: the one Google names for the TPU)
#   --queued                         as a queued resource: waits for capacity; --slices=N makes N slices
#   --spot | --reserved              preemptible or reserved capacity
#   --more=FLAG                      passed to gcloud's create unchanged; may be repeated
#   --env=NAME=VALUE                 for the job; may be repeated
#   --worker=N --slice=N             whose log (default 0 and 0)
#   --every=SECONDS                  between two checks (default 60)
#   --restarts=N                     starts in a row on the same TPU before run gives up (default 10)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

zone=${VMAE_ZONE:-} cloud_project=${VMAE_PROJECT:-} accelerator='' runtime='' capacity='' queued=''
slices=1 worker=0 slice=0 every=60 restarts=10
more=() variables=() job=()

read_arguments() {
  if [ "${1:-}" = --dry-run ]; then
    dry=1
    shift
  fi
  action=${1:-} name=${2:-}
  case $action in
    run | create | install | start | status | logs | stop | delete) ;;
    *) refuse "usage: bash launch/tpu_pod.sh [--dry-run] run|create|install|start|status|logs|stop|delete NAME [OPTIONS] [-- train …]" ;;
  esac
  check_name "$name"
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      --dry-run) dry=1 ;;
      --zone=*) zone=${1#*=} ;;
      --project=*) cloud_project=${1#*=} ;;
      --accelerator=*) accelerator=${1#*=} ;;
      --runtime=*) runtime=${1#*=} ;;
      --queued) queued=1 ;;
      --slices=*) slices=${1#*=} ;;
      --spot | --reserved) capacity=$1 ;;
      --more=*) more+=("${1#*=}") ;;
      --env=*) check_variable "${1#*=}" && variables+=("${1#*=}") ;;
      --worker=*) worker=${1#*=} ;;
      --slice=*) slice=${1#*=} ;;
      --every=*) every=${1#*=} ;;
      --restarts=*) restarts=${1#*=} ;;
      --)
        shift
        job=("$@")
        break
        ;;
      *) refuse "unknown option $1; the header of launch/tpu_pod.sh lists the options" ;;
    esac
    shift
  done
}

check_arguments() {
  [ -n "$zone" ] || refuse "give --zone=ZONE, for example us-east5-a"
  whole --slices "$slices"
  whole --worker "$worker" 0
  whole --slice "$slice" 0
  whole --every "$every" 0
  whole --restarts "$restarts"
  [ "$slices" = 1 ] || [ -n "$queued" ] || refuse "--slices=$slices needs --queued"
  [ "$slice" -lt "$slices" ] || refuse "--slice=$slice: must be from 0 to $((slices - 1))"
  case $action in
    run | create)
      [[ $accelerator =~ ^(v2|v3|v4|v5litepod|v5p|v6e)-[1-9][0-9]*$ ]] ||
        refuse "--accelerator=$accelerator: must be v4-N, v5litepod-N, v5p-N or v6e-N, for example v5p-128"
      [ -n "$runtime" ] || runtime=$(default_runtime "$accelerator")
      ;;
  esac
  case $action in run | start) check_job gs://BUCKET/FOLDER ${job[@]+"${job[@]}"} ;; esac
  need gcloud
}

default_runtime() { # https://cloud.google.com/tpu/docs/runtimes
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

nodes() {
  local i
  if [ "$slices" = 1 ]; then
    echo "$name"
  else
    for ((i = 0; i < slices; i++)); do echo "$name-$i"; done
  fi
}

# tpus WHAT VERB …: gcloud's own commands, in the zone and project.
tpus() {
  local place=("--zone=$zone")
  [ -z "$cloud_project" ] || place+=("--project=$cloud_project")
  set -- gcloud compute tpus "$@" "${place[@]}" --quiet
  if [ "$5" = list ]; then ask "${assumed-}" "$@"; else run "$@"; fi
}

# situation: absent, waiting, ready, lost (to be created again), leaving or failed.
situation() {
  local listed state node all=ready
  if [ -n "$queued" ]; then
    listed=$(assumed=${assumed:+$name,ACTIVE} tpus queued-resources list '--format=csv[no-heading](name.basename(),state.state)') || return
    case $(state_of "$name" "$listed") in
      '') echo absent && return ;;
      ACTIVE) ;;
      SUSPENDED) echo lost && return ;;
      FAILED) echo failed && return ;;
      DELETING) echo leaving && return ;;
      *) echo waiting && return ;;
    esac
  fi
  listed=$(assumed=${assumed:+$(nodes | sed 's/$/,READY/')} tpus tpu-vm list '--format=csv[no-heading](name.basename(),state)') || return
  for node in $(nodes); do
    state=$(state_of "$node" "$listed")
    case $state in
      READY) ;;
      PREEMPTED | TERMINATED | STOPPED | STOPPING) all=lost ;;
      DELETING) [ "$all" = lost ] || all=leaving ;;
      '') if [ -n "$queued" ]; then all=lost; else all=absent; fi ;;
      *) [ "$all" != ready ] || all=waiting ;;
    esac
  done
  echo "$all"
}

state_of() { awk -F, -v name="$1" '$1 == name { print $2; exit }' <<<"$2"; }

create() {
  local flags=("--accelerator-type=$accelerator")
  [ -z "$capacity" ] || flags+=("$capacity")
  flags+=(${more[@]+"${more[@]}"})
  if [ -z "$queued" ]; then
    tpus tpu-vm create "$name" "--version=$runtime" "${flags[@]}"
  elif [ "$slices" = 1 ]; then
    tpus queued-resources create "$name" "--runtime-version=$runtime" "--node-id=$name" "${flags[@]}"
  else
    tpus queued-resources create "$name" "--runtime-version=$runtime" "--node-count=$slices" "--node-prefix=$name" "${flags[@]}"
  fi
}

delete() {
  if [ -n "$queued" ]; then
    tpus queued-resources delete "$name" --force
  else
    tpus tpu-vm delete "$name"
  fi
}

# ensure: wait for a TPU that is ready; `made` is set if it had to be created.
ensure() {
  local reported='' now
  while :; do
    now=$(situation) || return
    [ "$now" = "$reported" ] || report "$name is $now"
    reported=$now
    case $now in
      ready) return ;;
      failed)
        report "the queued resource failed; see 'gcloud compute tpus queued-resources describe $name --zone=$zone', delete it, then create it again"
        return 1
        ;;
      absent) create && made=1 ;;
      lost) delete ;;
      *) sleep "$every" ;;
    esac
    if [ -n "$dry" ]; then
      echo "# and checks every $every s until it is READY" >&3
      return
    fi
  done
}

# on_workers COMMAND: in the shell of every worker of every slice.
on_workers() {
  local node pending=() failed=0 pid
  for node in $(nodes); do
    tpus tpu-vm ssh "$node" --worker=all "--command=$1" </dev/null &
    pending+=($!)
    [ -z "$dry" ] || wait
  done
  [ -n "$dry" ] || for pid in "${pending[@]}"; do wait "$pid" || failed=1; done
  return "$failed"
}

install() {
  local node archive
  archive=${TMPDIR:-/tmp}/vmae_jax.tar.gz
  [ -n "$dry" ] || archive=$(mktemp "${TMPDIR:-/tmp}/vmae_jax.XXXXXX")
  run tar -czf "$archive" -C "$project" LICENSE README.md launch pyproject.toml requirements.txt vmae_jax
  for node in $(nodes); do
    tpus tpu-vm scp "$archive" "$node:vmae_jax.tar.gz" --worker=all
  done
  [ -n "$dry" ] || rm -f "$archive"
  on_workers 'mkdir -p vmae_jax && tar -xzf vmae_jax.tar.gz -C vmae_jax && bash vmae_jax/launch/tpu_worker.sh install'
}

start() {
  on_workers "bash vmae_jax/launch/tpu_worker.sh start $name $(quoted env ${variables[@]+"${variables[@]}"} vmae "${job[@]}")"
}

ask_workers() { on_workers "bash vmae_jax/launch/tpu_worker.sh status $name 2>/dev/null || echo vmae-worker \$(hostname) absent"; }

# judge TEXT: the state that the lines of the workers imply: done, running, stopped, again, fresh, or the exit code of a fault.
judge() {
  awk '
    $1 == "vmae-worker" { n[$3]++; total++; if ($3 == "ended") { ends[$4]++ } }
    END {
      if (!total) print "again"
      else if (n["absent"]) print "fresh"
      else if (ends[2]) print 2
      else if (ends[1]) print 1
      else if (n["stopped"]) print "stopped"
      else if (ends[0] == total) print "done"
      else if (n["running"] + ends[0] == total) print "running"
      else print "again"
    }' <<<"$1"
}

# watch: until the job has ended; create and start again what is missing.
watch() {
  local tries=0 healthy=0 made='' verdict lines
  while :; do
    ensure || return
    [ -z "$made" ] || tries=0
    made=
    if [ -n "$dry" ]; then
      install
      start
      ask_workers
      echo "# and checks every $every s: creates, installs and restarts what was lost, until the job has ended" >&3
      return
    fi
    verdict=unreachable
    if lines=$(ask_workers); then verdict=$(judge "$lines"); fi
    case $verdict in
      running) ;;
      done)
        report "$name is done; 'delete $name' gives the TPU back"
        return 0
        ;;
      stopped)
        report "$name was stopped; the same command resumes"
        return 75
        ;;
      1 | 2)
        report "$name ended with status $verdict, which a restart does not fix: $0 logs $name --zone=$zone"
        return "$verdict"
        ;;
      *)
        report "state of the workers: $verdict"
        tries=$((tries + 1)) healthy=0
        if [ "$tries" -gt "$restarts" ]; then
          report "$restarts starts in a row did not help: $0 logs $name --zone=$zone"
          return 75
        fi
        if [ "$verdict" = fresh ]; then install || report "the installation failed; trying again"; fi
        [ "$verdict" = unreachable ] || start || report "not all workers started; trying again"
        ;;
    esac
    healthy=$((healthy + 1))
    [ "$healthy" -lt 20 ] || tries=0
    sleep "$every"
  done
}

read_arguments "$@"
check_arguments
case $action in
  run) watch ;;
  create) ensure ;;
  install) install ;;
  start) start ;;
  status)
    assumed=1
    situation
    ask_workers
    ;;
  logs)
    node=$(nodes | sed -n "$((slice + 1))p")
    tpus tpu-vm ssh "$node" "--worker=$worker" "--command=bash vmae_jax/launch/tpu_worker.sh logs $name"
    ;;
  stop) on_workers "bash vmae_jax/launch/tpu_worker.sh stop $name" ;;
  delete)
    assumed=1
    now=$(situation)
    if [ "$now" = absent ]; then report "$name does not exist"; else delete; fi
    ;;
esac
