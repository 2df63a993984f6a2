#!/usr/bin/env bash
# From nothing to a trained model: creates the environment, draws and encodes a dataset of moving
# shapes, trains a small VideoMAE V2 on it for about five minutes on two cores, evaluates it, and
# writes pictures and a report. Run again, it resumes, or reports that the run is complete.
#
#   bash launch/quickstart.sh [WORKDIR] [--config.a.b=value …]     (WORKDIR: ./quickstart)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

workdir=$project/quickstart
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
  workdir=$1
  shift
fi
vmae train --config="$project/vmae_jax/configs/quickstart.py" --workdir="$workdir" "$@" >/dev/null
vmae reconstruct --workdir="$workdir" --out="$workdir/pictures" >/dev/null
vmae report --workdir="$workdir" >/dev/null
echo "The run:       $workdir"
echo "Its report:    $workdir/report.html"
echo "Its pictures:  $workdir/pictures/reconstruction.png (and .webp, in motion)"
