#!/bin/bash
# One video in a partition whose jobs are preempted, or that takes longer than the time limit:
#     sbatch --partition=... launch/slurm/preemptible.sh cat.h5 --ckpt_dir DIR --prompt "..." --save_file cat.mp4
# The first argument is the run file, the others are flags of `wanmpi generate`. Two minutes before the time limit,
# and when it is preempted, the job saves its state after the current step, is queued again, and goes on.
#SBATCH --job-name=wanmpi --output=%x-%j.log --open-mode=append
#SBATCH --nodes=1 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8 --time=04:00:00
#SBATCH --requeue --signal=USR1@120
run_file=$1
shift
trap : USR1 TERM # Slurm may signal this script too: wanmpi ends with status 75, and the script goes on below
status=0
srun --mpi=pmix wanmpi generate --run_file "$run_file" "$@" || status=$?
# After scancel the job is no longer running, and stays cancelled.
if [ $status = 75 ] && [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60 # until Slurm ends this script
fi
exit $status
