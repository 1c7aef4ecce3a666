#!/bin/bash
# Many videos: each task of the array makes its share of the lines of a batch file.
#     sbatch --array=1-4 launch/slurm/array.sh jobs.jsonl --ckpt_dir DIR
# Takes what `wanmpi batch` takes. Submitted again, with any number of tasks, it makes what is missing.
#SBATCH --job-name=wanmpi-batch --output=%x-%A-%a.log
#SBATCH --nodes=1 --ntasks-per-node=1 --gpus-per-node=1 --cpus-per-task=8 --time=12:00:00 --array=1-4
set -eu
jobs=$1
shift
share=$(mktemp -d)/$(basename "$jobs") # the name is part of the videos' default names
awk -v n="$SLURM_ARRAY_TASK_COUNT" -v i="$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))" \
    'NF > 0 && k++ % n == i' "$jobs" > "$share"
status=0
srun --mpi=pmix wanmpi batch "$share" "$@" || status=$?
rm -r "$(dirname "$share")"
exit $status
