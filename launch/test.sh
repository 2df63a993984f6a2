#!/usr/bin/env bash
# Runs the tests: `bash launch/test.sh` the default suite, `--all` the slow ones, too.
# Other arguments go to pytest: `bash launch/test.sh tests/masking -k tube`.
#
#   VMAE_TEST_WORKERS   files tested side by side (default: 2; 0 tests in one process)
#   VMAE_CACHE          folder for the programs that tests compile (default: .cache/tests, where the next run finds
#                       them; `off` compiles everything again)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$project"

select=(-m "not slow")
if [ "${1:-}" = "--all" ]; then
  select=()
  shift
fi
python -m compileall -q vmae_jax tests benchmarks
exec python -m pytest -q -n "${VMAE_TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder ${select[@]+"${select[@]}"} "$@"
