#!/usr/bin/env bash
# Runs a command on all workers of a TPU VM until it is done, through preemptions: babysit-tpu-vm.sh --help.
# KEY=VALUE words at the head of the command go into the environment here, so that no process keeps them as arguments.
set -euo pipefail

arguments=() names=()
while [ $# -gt 0 ]; do
  arguments+=("$1")
  [ "$1" = "--" ] && { shift; break; }
  shift
done
while [ $# -gt 0 ] && [[ "$1" =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; do
  export "$1"
  names+=("${1%%=*}")
  shift
done
# The names alone, in front of the command.
export BABYSIT_ENV="${BABYSIT_ENV:-}${names[*]:+ ${names[*]}}"
python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "This needs Python 3.11 or newer, which $python is not. Try: PYTHON=python3.12 $0 ..." >&2
  exit 2
}
exec "$python" "$(dirname "${BASH_SOURCE[0]}")/babysit_tpu_vm.py" ${arguments[@]+"${arguments[@]}"} "$@"
