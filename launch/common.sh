# shellcheck shell=bash
# Sourced by the scripts for clouds and schedulers: messages, usage errors, dry runs.

# shellcheck disable=SC2034 # used by the scripts that source this
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dry=                # set by --dry-run: commands are shown, and nothing is changed or queried
exec 3>&1           # where commands are shown, also from inside $(…)

report() { echo "$(basename "$0"): $*" >&2; }

# refuse TEXT: report a usage error in one line and exit.
refuse() {
  report "$*"
  exit 2
}

# quoted WORD…: as they could be pasted into a shell.
quoted() {
  local word text=''
  for word in "$@"; do
    [[ $word =~ ^[-A-Za-z0-9_./:=,@%+]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    text+=" $word"
  done
  echo "${text# }"
}

show() { quoted "$@" >&3; }

# run COMMAND…: run it, or show it in a dry run.
run() {
  if [ -n "$dry" ]; then show "$@"; else "$@"; fi
}

# ask ANSWER COMMAND…: the output of a query; ANSWER stands for it in a dry run.
ask() {
  local answer=$1
  shift
  if [ -n "$dry" ]; then
    show "$@"
    echo "$answer"
  else
    "$@"
  fi
}

# need COMMAND: refuse if it is not installed (a dry run needs nothing).
need() {
  [ -n "$dry" ] || command -v "$1" >/dev/null || refuse "$1 is not installed here; docs/launch.md lists what each script needs"
}

# whole NAME VALUE [LEAST]: refuse a value that is not a whole number.
whole() {
  [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] && [ "$2" -ge "${3:-1}" ] || refuse "$1=$2: must be a whole number of at least ${3:-1}"
}

# check_name NAME: what Kubernetes, TPUs and SLURM all take.
check_name() {
  [[ ${1:-} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    refuse "name '${1:-}': must be at most 40 lower-case letters, digits and dashes, beginning with a letter"
}

# check_variable NAME=VALUE: of --env.
check_variable() {
  [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || refuse "--env=$1: must be NAME=VALUE"
}

# check_job MEANS ARGUMENT…: the arguments of vmae; a training on many hosts needs a place that all reach.
check_job() {
  local means=$1 argument before='' workdir=''
  shift
  [ $# -gt 0 ] || refuse "give the vmae command after --, for example: -- train --config=FILE --workdir=$means"
  [ "$1" = train ] || return 0
  for argument in "$@"; do
    case $argument in --workdir=*) workdir=${argument#*=} ;; esac
    [ "$before" != --workdir ] || workdir=$argument
    before=$argument
  done
  [ -n "$workdir" ] || refuse "vmae train needs --workdir=$means"
  case $means:$workdir in
    gs://*:gs://*/* | gs://*:/mnt/*) ;;
    gs://*) refuse "--workdir=$workdir: use gs://BUCKET/FOLDER (or a shared disk under /mnt), because the disk of a host is lost with the host" ;;
  esac
}
