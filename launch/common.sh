# shellcheck shell=bash
# Sourced by the scripts that talk to a cloud or a scheduler: telling, refusing, showing instead of doing.

# shellcheck disable=SC2034 # used by the scripts that source this
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dry=                # set by --dry-run: commands are shown, and nothing is touched or asked
exec 3>&1           # where commands are shown, also from inside $(…)

say() { echo "$(basename "$0"): $*" >&2; }

# refuse TEXT: the user's mistake, in one line.
refuse() {
  say "$*"
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

# run COMMAND…: does it, or shows it.
run() {
  if [ -n "$dry" ]; then show "$@"; else "$@"; fi
}

# ask ANSWER COMMAND…: the output of a question; ANSWER is taken for it in a dry run.
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

# need COMMAND: refuses where it is missing (a dry run needs nothing).
need() {
  [ -n "$dry" ] || command -v "$1" >/dev/null || refuse "$1 is not installed here; docs/launch.md says what each script needs"
}

# whole NAME VALUE [LEAST]: refuses what is not a whole number.
whole() {
  [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] && [ "$2" -ge "${3:-1}" ] || refuse "$1=$2: a whole number from ${3:-1}"
}

# check_name NAME: what Kubernetes, TPUs and SLURM all take.
check_name() {
  [[ ${1:-} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    refuse "name '${1:-}': lower-case letters, digits and dashes, at most 40, beginning with a letter"
}

# check_variable NAME=VALUE: of --env.
check_variable() {
  [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || refuse "--env=$1: NAME=VALUE"
}

# check_job MEANS ARGUMENT…: the arguments of vmae; a training on many hosts needs a place that all reach.
check_job() {
  local means=$1 argument before='' workdir=''
  shift
  [ $# -gt 0 ] || refuse "give what vmae is to do after --, as in: -- train --config=FILE --workdir=$means"
  [ "$1" = train ] || return 0
  for argument in "$@"; do
    case $argument in --workdir=*) workdir=${argument#*=} ;; esac
    [ "$before" != --workdir ] || workdir=$argument
    before=$argument
  done
  [ -n "$workdir" ] || refuse "vmae train needs --workdir=$means"
  case $means:$workdir in
    gs://*:gs://*/* | gs://*:/mnt/*) ;;
    gs://*) refuse "--workdir=$workdir: use gs://BUCKET/FOLDER (or a shared disk under /mnt), for the disk of a host is lost with it" ;;
  esac
}
