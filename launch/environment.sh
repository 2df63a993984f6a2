# shellcheck shell=bash
# Sourced by the other scripts: creates the virtual environment once, and prints nothing when it exists.
#
#   VMAE_VENV    its folder (default: .venv in the project)
#   VMAE_EXTRA   extras of pyproject.toml to install: tpu, cuda13, cuda12, …
#   PYTHON       the Python that creates it (default: python3, else 3.13, 3.12 or 3.11, whichever works first)

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
  echo "launch: creating the environment in $venv (a few minutes, once)" >&2
  "$python" -m venv "$venv" || return 1
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$project/requirements.txt" || return 1
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -e "$project" || return 1
  if [ -n "${VMAE_EXTRA:-}" ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$project/requirements.txt" \
      -e "${project}[$VMAE_EXTRA]" || return 1
  fi
  echo "$stamp" >"$venv/.vmae-stamp"
}

make_environment || { echo "launch: the environment could not be created; see the lines above" >&2; exit 1; }
export PATH="$venv/bin:$PATH"
# TensorFlow only reads data here; its start-up notices are not useful here.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
