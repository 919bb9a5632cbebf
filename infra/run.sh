#!/usr/bin/env bash
# Runs a command on a worker in the environment that setup-worker.sh made: bash lodos/infra/run.sh lodos train ...
set -euo pipefail

venv="${LODOS_VENV:-$HOME/venv}"
[ -d "$venv" ] && export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
# The name that older tutorials give the token of the hub.
[ -n "${HUGGING_FACE_HUB_TOKEN:-}" ] && export HF_TOKEN="${HF_TOKEN:-$HUGGING_FACE_HUB_TOKEN}"
# A pod's checkpoints and weights are many files at once.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
# Left by a process that was killed; as long as it lies there nobody else gets the chips.
if [ -e /tmp/libtpu_lockfile ] && command -v fuser >/dev/null && ! fuser /dev/accel* /dev/vfio/* >/dev/null 2>&1; then
  rm -f /tmp/libtpu_lockfile
fi
exec "$@"
