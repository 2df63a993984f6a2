# shellcheck shell=bash
# Sourced by the other scripts: makes the virtual environment once, says nothing when it is there.
#
#   VMAE_VENV    where it lives (default: .venv in the project)
#   VMAE_EXTRA   what else of pyproject.toml's extras: tpu, cuda13, cuda12, …
#   PYTHON       which Python makes it (default: the newest of 3.13, 3.12, 3.11 that works)

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VMAE_VENV:-$project/.venv}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "launch: Python 3.11, 3.12 or 3.13 with venv is needed (Debian: apt-get install python3 python3-venv)" >&2
  return 1
}

make_environment() {
  local stamp python
  stamp="$(cat "$project/requirements.txt" "$project/pyproject.toml" | cksum)${VMAE_EXTRA:+ $VMAE_EXTRA}"
  if [ -x "$venv/bin/vmae" ] && [ "$(cat "$venv/.vmae-stamp" 2>/dev/null)" = "$stamp" ]; then
    return
  fi
  python=$(find_python) || return 1
  echo "launch: making the environment in $venv (a few minutes, once)" >&2
  "$python" -m venv "$venv" || return 1
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$project/requirements.txt" || return 1
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -e "$project" || return 1
  if [ -n "${VMAE_EXTRA:-}" ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$project/requirements.txt" \
      -e "${project}[$VMAE_EXTRA]" || return 1
  fi
  echo "$stamp" >"$venv/.vmae-stamp"
}

make_environment || { echo "launch: the environment could not be made; the lines above say why" >&2; exit 1; }
export PATH="$venv/bin:$PATH"
# TensorFlow only reads data here; its start-up notices are of no use to anybody.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
