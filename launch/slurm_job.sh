#!/usr/bin/env bash
# Submitted by launch/slurm.sh: one run of a job on all its nodes, requeued if the same command resumes.
# With --task: the command of each process.
set -uo pipefail

# The exit codes 1 and 2, which need a person, must not be lost among those of processes that ended because of them.
if [ "${1:-}" = --task ]; then
  shift
  trap : TERM # SLURM signals all processes of a step: this shell stays, until the training has saved
  status=0
  vmae "$@" || status=$?
  case $status in 1 | 2) echo "$status" >"$VMAE_STATUSES/$SLURM_PROCID" ;; esac
  exit "$status"
fi

[ "$VMAE_GPUS" -eq 0 ] || export VMAE_EXTRA=${VMAE_EXTRA-cuda13}
# shellcheck source=environment.sh
source "$VMAE_HOME/launch/environment.sh"
cd "$VMAE_HOME" || exit 1

export VMAE_DISTRIBUTED=auto # JAX finds the coordinator and its number in SLURM's variables
if [ "$VMAE_GPUS" -gt 0 ]; then
  if [ "$VMAE_PER" = node ]; then
    # Under SLURM, JAX would take one GPU per process: here it takes all GPUs of the node.
    JAX_LOCAL_DEVICE_IDS=${JAX_LOCAL_DEVICE_IDS:-$(seq -s, 0 $((VMAE_GPUS - 1)))}
    export JAX_LOCAL_DEVICE_IDS
  fi
  flags=(
    # Starts collectives early and waits for them late, so that they run beside the arithmetic.
    --xla_gpu_enable_latency_hiding_scheduler=true
    # Gathers small parameters (fsdp) in messages of up to 128 MiB: fewer, longer transfers.
    --xla_gpu_all_gather_combine_threshold_bytes=134217728
    # The same for the gradients of fsdp, and for those of data parallelism.
    --xla_gpu_reduce_scatter_combine_threshold_bytes=134217728
    --xla_gpu_all_reduce_combine_threshold_bytes=134217728
    # The layers are one loop: moves gathers one iteration ahead, and sends gradients one iteration later.
    --xla_gpu_enable_pipelined_all_gather=true
    --xla_gpu_enable_pipelined_reduce_scatter=true
    --xla_gpu_enable_pipelined_all_reduce=true
  )
  export XLA_FLAGS="${flags[*]} ${XLA_FLAGS:-}" # the user's come last and take precedence
  # Share of each GPU's memory for JAX; NCCL and cuBLAS need some of the rest.
  export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
  # Reports problems between GPUs; INFO also names the links in use.
  export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
fi

turn=${SLURM_RESTART_COUNT:-0}
VMAE_STATUSES=$(mktemp -d "$SLURM_SUBMIT_DIR/.vmae-$SLURM_JOB_ID-$turn.XXXXXX") || exit 1
export VMAE_STATUSES
trap 'rm -rf "$VMAE_STATUSES"' EXIT

trap : TERM # the notice is for the processes, which save (--signal=TERM@… of launch/slurm.sh); this shell stays
# --wait: once one process has ended, the others have so many seconds; the watchdog's and JAX's own limits are shorter.
status=0
srun --kill-on-bad-exit=0 --wait=180 bash "$VMAE_HOME/launch/slurm_job.sh" --task "$@" || status=$?

for file in "$VMAE_STATUSES"/*; do
  if [ -e "$file" ]; then
    status=$(cat "$file")
    echo "slurm_job: process $(basename "$file") ended with status $status, which a restart does not fix" >&2
    exit "$status"
  fi
done
case $status in
  75 | 134 | 137 | 143) ;;
  *) exit "$status" ;;
esac
# `scancel` has ended a job that is no longer running here: it stays ended.
state=$(squeue --noheader "--jobs=$SLURM_JOB_ID" --format=%T)
if [ "$state" != RUNNING ]; then
  echo "slurm_job: ended with status $status; the job is ${state:-gone}, so it is not queued again" >&2
elif [ "$turn" -ge "$VMAE_RESTARTS" ]; then
  echo "slurm_job: ended with status $status; $VMAE_RESTARTS restarts did not help" >&2
else
  echo "slurm_job: ended with status $status: requeued (restart $((turn + 1)))" >&2
  rm -rf "$VMAE_STATUSES"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
