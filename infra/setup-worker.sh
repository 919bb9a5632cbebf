#!/usr/bin/env bash
# Makes a worker ready: this repository in ~/lodos, at LODOS_BRANCH of LODOS_REPO, installed into ~/venv. May run again.
set -euo pipefail
cd "$HOME"

: "${LODOS_REPO:?no repository to clone. Give --repo}" "${LODOS_BRANCH:=main}"
if [ -d lodos/.git ]; then
  git -C lodos fetch --quiet --depth 1 "$LODOS_REPO" "$LODOS_BRANCH"
  git -C lodos checkout --quiet --detach FETCH_HEAD
else
  git clone --quiet --depth 1 --branch "$LODOS_BRANCH" "$LODOS_REPO" lodos
fi

# lodos needs 3.11; Ubuntu 22.04 comes with 3.10, for which uv fetches a newer one.
if ! [ -x venv/bin/python ]; then
  if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python3 -m venv venv
  else
    python3 -m pip install --quiet --user uv
    "$HOME/.local/bin/uv" venv --quiet --seed --python 3.12 venv
  fi
fi
extras="${LODOS_EXTRAS-tpu,gcs}"
venv/bin/python -m pip install --quiet --upgrade "./lodos${extras:+[$extras]}"
