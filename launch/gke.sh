#!/usr/bin/env bash
# A job on Google Kubernetes Engine (or any cluster with JobSet), on TPU slices or GPU nodes.
#
#   bash launch/gke.sh [--dry-run] COMMAND NAME [OPTIONS] [-- train --config=FILE --workdir=gs://…]
#
#   start    the job if it is not running; a failed one is created again, and resumes
#   status   of the JobSet and its pods      logs   follow process 0       delete   the job if it exists
#
#   --image=IMAGE                    built from launch/Dockerfile (start)
#   --topology=v5p:4x4x4             TPU slices, as `vmae plan` names them; --slices=N of them
#   --chips-per-host=N               (default 4; GKE's machine types for v5e and v6e also have 1 and 8)
#   --gpus=N --nodes=N               or GPUs per node, and nodes; --gpu=nvidia-h100-80gb selects the kind
#   --spot                           nodes that may be preempted
#   --restarts=N                     of the whole job at most (default 100)
#   --namespace=NAME --context=NAME  of Kubernetes        --service-account=NAME  with access to the bucket
#   --queue=NAME                     of Kueue
#   --env=NAME=VALUE                 for the job; may be repeated
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

image='' topology='' slices=1 per_host='' gpus='' hosts=1 gpu='' spot='' restarts=100 account=default queue=''
cluster=() variables=() job=()

read_arguments() {
  if [ "${1:-}" = --dry-run ]; then
    dry=1
    shift
  fi
  action=${1:-} name=${2:-}
  case $action in
    start | status | logs | delete) ;;
    *) refuse "usage: bash launch/gke.sh [--dry-run] start|status|logs|delete NAME [OPTIONS] [-- train …]" ;;
  esac
  check_name "$name"
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      --dry-run) dry=1 ;;
      --image=*) image=${1#*=} ;;
      --topology=*) topology=${1#*=} ;;
      --slices=*) slices=${1#*=} ;;
      --chips-per-host=*) per_host=${1#*=} ;;
      --gpus=*) gpus=${1#*=} ;;
      --nodes=*) hosts=${1#*=} ;;
      --gpu=*) gpu=${1#*=} ;;
      --spot) spot=1 ;;
      --restarts=*) restarts=${1#*=} ;;
      --namespace=* | --context=*) cluster+=("$1") ;;
      --service-account=*) account=${1#*=} ;;
      --queue=*) queue=${1#*=} ;;
      --env=*) check_variable "${1#*=}" && variables+=("${1#*=}") ;;
      --)
        shift
        job=("$@")
        break
        ;;
      *) refuse "unknown option $1; the header of launch/gke.sh lists the options" ;;
    esac
    shift
  done
}

check_arguments() {
  need kubectl
  [ "$action" = start ] || return 0
  [ -n "$image" ] || refuse "give --image=IMAGE, built from launch/Dockerfile and pushed where the cluster can pull it"
  whole --slices "$slices"
  whole --nodes "$hosts"
  whole --restarts "$restarts" 0
  [[ $account =~ ^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$ ]] || refuse "--service-account=$account: must be a Kubernetes name"
  case "${topology:+tpu}${gpus:+gpu}" in
    tpu) read_topology ;;
    gpu) whole --gpus "$gpus" ;;
    *) refuse "give --topology=v5p:4x4x4 for TPUs, or --gpus=N for GPUs" ;;
  esac
  check_job gs://BUCKET/FOLDER ${job[@]+"${job[@]}"}
}

# read_topology: of "v5p:4x4x4" the kind of node, the shape, and how many hosts a slice has.
read_topology() {
  local kind=${topology%%:*} dimensions=3 chips=1 length
  shape=${topology#*:}
  case $kind in
    v4) accelerator=tpu-v4-podslice ;;
    v5p) accelerator=tpu-v5p-slice ;;
    v5e) accelerator=tpu-v5-lite-podslice dimensions=2 ;;
    v6e) accelerator=tpu-v6e-slice dimensions=2 ;;
    *) refuse "--topology=$topology: must be v4:, v5p: (as in v5p:4x4x4), v5e: or v6e: (as in v5e:4x4)" ;;
  esac
  [[ $shape =~ ^[1-9][0-9]?(x[1-9][0-9]?){$((dimensions - 1))}$ ]] ||
    refuse "--topology=$topology: $kind has $dimensions dimensions"
  for length in ${shape//x/ }; do chips=$((chips * length)); done
  [ -n "$per_host" ] || per_host=$((chips < 4 ? chips : 4))
  whole --chips-per-host "$per_host"
  [ $((chips % per_host)) = 0 ] || refuse "--chips-per-host=$per_host does not divide the $chips chips of $topology"
  hosts=$((chips / per_host))
}

# json TEXT: as a string of JSON, and so of YAML.
json() {
  local text=$1
  [[ $text != *[[:cntrl:]]* ]] || refuse "control characters are not allowed in $(quoted "$text")"
  text=${text//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

# mapping KEY=VALUE…: as a JSON object of strings.
mapping() {
  local pair text=''
  for pair in "$@"; do text+=", $(json "${pair%%=*}"): $(json "${pair#*=}")"; done
  echo "{${text#, }}"
}

sequence() {
  local item text=''
  for item in "$@"; do text+=", $(json "$item")"; done
  echo "[${text#, }]"
}

environment() {
  local pair text=''
  for pair in "$@"; do text+=", {\"name\": $(json "${pair%%=*}"), \"value\": $(json "${pair#*=}")}"; done
  if [ -z "$topology" ]; then # the number of the pod, from Kubernetes
    text+=", {\"name\": \"VMAE_PROCESS\", \"valueFrom\": {\"fieldRef\": {\"fieldPath\": "
    text+="\"metadata.annotations['batch.kubernetes.io/job-completion-index']\"}}}"
  fi
  echo "[${text#, }]"
}

manifest() {
  local text labels=(app.kubernetes.io/name=vmae "app.kubernetes.io/instance=$name") nodes=() resources own=()
  if [ -n "$topology" ]; then
    text=$(<"$project/launch/gke/jobset-tpu.yaml")
    nodes+=("cloud.google.com/gke-tpu-accelerator=$accelerator" "cloud.google.com/gke-tpu-topology=$shape")
    resources=google.com/tpu=$per_host
    own=(VMAE_DISTRIBUTED=auto) # JAX finds the others in the variables that GKE sets
  else
    text=$(<"$project/launch/gke/jobset-gpu.yaml")
    [ -z "$gpu" ] || nodes+=("cloud.google.com/gke-accelerator=$gpu")
    resources=nvidia.com/gpu=$gpus
    own=("VMAE_COORDINATOR=$name-node-0-0.$name:8476" "VMAE_PROCESSES=$hosts" NCCL_DEBUG=WARN)
  fi
  [ -z "$spot" ] || nodes+=(cloud.google.com/gke-spot=true)
  [ -z "$queue" ] || labels+=("kueue.x-k8s.io/queue-name=$queue")
  fill() { text=${text//"\${$1}"/"$2"}; }
  fill NAME "$name"
  fill LABELS "$(mapping "${labels[@]}")"
  fill RESTARTS "$restarts"
  fill SLICES "$slices"
  fill HOSTS "$hosts"
  fill SERVICE_ACCOUNT "$account"
  fill NODES "$(mapping ${nodes[@]+"${nodes[@]}"})"
  fill RESOURCES "$(mapping "$resources")"
  fill IMAGE "$(json "$image")"
  fill VARIABLES "$(environment "${own[@]}" ${variables[@]+"${variables[@]}"})"
  fill ARGUMENTS "$(sequence "${job[@]}")"
  printf '%s\n' "$text"
}

kube() { run kubectl ${cluster[@]+"${cluster[@]}"} "$@"; }

# condition ASSUMED: empty where there is no such JobSet; else "here:" and how it ended, if it has.
condition() {
  ask "$1" kubectl ${cluster[@]+"${cluster[@]}"} get jobset "$name" --ignore-not-found \
    '--output=jsonpath=here:{.status.terminalState}'
}

start() {
  local text now
  text=$(manifest)
  now=$(condition '')
  case $now in
    '') ;;
    here:Complete | here:Completed)
      report "$name is done"
      return
      ;;
    here:Failed)
      report "$name failed; it is created again, and resumes"
      kube delete jobset "$name" --wait --timeout=600s
      ;;
    *)
      report "$name is already running"
      return
      ;;
  esac
  if [ -n "$dry" ]; then
    printf '%s\n' "$(quoted kubectl ${cluster[@]+"${cluster[@]}"} apply --filename=-) <<'END'" "$text" END >&3
  else
    kube apply --filename=- <<<"$text"
  fi
}

read_arguments "$@"
check_arguments
case $action in
  start) start ;;
  status)
    kube get jobset "$name"
    kube get pods "--selector=jobset.sigs.k8s.io/jobset-name=$name" --output=wide
    ;;
  logs)
    kube logs --follow --tail=200 \
      "--selector=jobset.sigs.k8s.io/jobset-name=$name,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
    ;;
  delete)
    now=$(condition here:) # a cluster that does not answer ends it here
    if [ -n "$now" ]; then
      kube delete jobset "$name" --wait --timeout=600s
    else
      report "$name does not exist"
    fi
    ;;
esac
