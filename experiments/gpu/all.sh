#!/bin/sh
# Run all checks and measurements that need a card, in under 15 minutes, and print one table of the goals.
#
#     experiments/gpu/all.sh                      on the first CUDA device
#     experiments/gpu/all.sh --device cpu --toy   a dry run without a card
#
# Options: see run_all.py. PYTHON names the interpreter.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
exec "${PYTHON:-python}" "$here/run_all.py" "$@"
