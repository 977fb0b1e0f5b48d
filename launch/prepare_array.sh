#!/bin/bash
# Prepares a corpus on several nodes under Slurm: a first job reads the input, an array makes the shards, a last job ends
# the store. Run from the repository:  launch/prepare_array.sh 16 data=text data.name=big 'data.paths=[/big]'
# Options for sbatch stand in SBATCH_* variables or OPTIONS, e.g. OPTIONS='--cpus-per-task=64 --time=4:00:00'.
# What a killed task left undone is made by the last job; or cancel that, and run the same again.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}

if [ "${1:-}" = task ]; then # as a job of the array
    shift
    exec "$python" -m data_prep.prepare "$@" "data.part=$SLURM_ARRAY_TASK_ID"
elif [ "${1:-}" = step ]; then # as the first or the last job
    module=$2
    shift 2
    exec "$python" -m "$module" "$@"
fi

parts=${1:?usage: launch/prepare_array.sh PARTS overrides...}
shift
read -ra options <<<"${OPTIONS:-}"
submit() { sbatch --parsable --requeue --kill-on-invalid-dep=yes --job-name="prepare-$1" "${options[@]}" "${@:2}"; }

first=$(submit begin "$0" step data_prep.begin "$@")
array=$(submit part --dependency="afterok:$first" --array="0-$((parts - 1))" "$0" task "data.parts=$parts" "$@")
last=$(submit end --dependency="afterany:$array" "$0" step data_prep.prepare "$@")
echo "jobs $first (reads the input), $array ($parts tasks), $last (ends the store); logs: slurm-<job>.out"
