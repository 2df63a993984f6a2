#!/usr/bin/env bash
# A job on a SLURM cluster with GPUs. After an interruption it is requeued by itself, and resumes.
#
#   bash launch/slurm.sh [--dry-run] NAME [OPTIONS] -- train --config=FILE --workdir=FOLDER …
#
#   --nodes=N             (default 1)
#   --gpus=N              of each node (default 8; 0: on its CPU)
#   --process=node|gpu    one process per node with all its GPUs, or one per GPU (default node)
#   --cpus=N              of each node (default: the whole node, --exclusive)
#   --time=HH:MM:SS       time limit; the job is then requeued and continues (default 24:00:00)
#   --notice=SECONDS      before the time limit, to save (default 300)
#   --restarts=N          requeues at most (default 100)
#   --partition= --account= --qos= --constraint=      the options of sbatch
#   --more=FLAG           passed to sbatch unchanged; may be repeated
#   --env=NAME=VALUE      for the job; may be repeated
#
# If NAME is already queued or running, this is reported and nothing is done. Follow it with `tail -F NAME-JOB.log`,
# stop it with `scancel JOB` (it saves). The project and the workdir must be on a disk that all nodes share.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nodes=1 gpus=8 process=node cpus='' time=24:00:00 notice=300 restarts=100
flags=() variables=() job=()

read_arguments() {
  local name_given=''
  while [ $# -gt 0 ]; do
    case $1 in
      --dry-run) dry=1 ;;
      --nodes=*) nodes=${1#*=} ;;
      --gpus=*) gpus=${1#*=} ;;
      --process=*) process=${1#*=} ;;
      --cpus=*) cpus=${1#*=} ;;
      --time=*) time=${1#*=} ;;
      --notice=*) notice=${1#*=} ;;
      --restarts=*) restarts=${1#*=} ;;
      --partition=* | --account=* | --qos=* | --constraint=*) flags+=("$1") ;;
      --more=*) flags+=("${1#*=}") ;;
      --env=*) check_variable "${1#*=}" && variables+=("${1#*=}") ;;
      --)
        shift
        job=("$@")
        break
        ;;
      -*) refuse "unknown option $1; the header of launch/slurm.sh lists the options" ;;
      *)
        [ -z "$name_given" ] || refuse "unexpected argument $1: the vmae command comes after --"
        name_given=1 name=$1
        ;;
    esac
    shift
  done
}

check_arguments() {
  check_name "${name:-}"
  whole --nodes "$nodes"
  whole --gpus "$gpus" 0
  whole --notice "$notice"
  whole --restarts "$restarts" 0
  [ -z "$cpus" ] || whole --cpus "$cpus"
  [[ $process =~ ^(node|gpu)$ ]] || refuse "--process=$process: must be node or gpu"
  [ "$process:$gpus" != gpu:0 ] || refuse "--process=gpu needs --gpus of 1 or more"
  [[ $time =~ ^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$ ]] || refuse "--time=$time: must be like 24:00:00 or 2-00:00:00"
  check_job FOLDER ${job[@]+"${job[@]}"}
  need sbatch
  need squeue
}

submit() {
  local tasks=1
  [ "$process" = node ] || tasks=$gpus
  set -- "--job-name=$name" "--nodes=$nodes" "--ntasks-per-node=$tasks" "--time=$time" --requeue --open-mode=append \
    "--output=$name-%j.log" "--signal=TERM@$notice"
  if [ "$gpus" -gt 0 ]; then
    # Every process sees all GPUs of its node: JAX takes those named in JAX_LOCAL_DEVICE_IDS, or its own one.
    set -- "$@" "--gpus-per-node=$gpus"
  fi
  if [ -n "$cpus" ]; then
    set -- "$@" "--cpus-per-task=$((cpus / tasks > 0 ? cpus / tasks : 1))"
  else
    set -- "$@" --exclusive
  fi
  run env ${variables[@]+"${variables[@]}"} "VMAE_HOME=$project" "VMAE_GPUS=$gpus" "VMAE_PER=$process" \
    "VMAE_RESTARTS=$restarts" sbatch "$@" ${flags[@]+"${flags[@]}"} "$project/launch/slurm_job.sh" "${job[@]}"
}

read_arguments "$@"
check_arguments
there=$(ask '' squeue --me --noheader "--name=$name" --format=%A)
if [ -n "$there" ]; then
  report "$name is already queued or running: job $(echo "$there" | tr '\n' ' ')"
else
  submit
fi
