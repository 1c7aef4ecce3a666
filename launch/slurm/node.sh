#!/bin/bash
# One video on the GPUs of one node:
#     sbatch launch/slurm/node.sh --ckpt_dir DIR --prompt "..." --save_file cat.mp4 --run_file cat.h5
# Takes the flags of `wanmpi generate`. Flags of sbatch before the script change the lines below, for example
# --ntasks-per-node=4 --gpus-per-node=4. Submitted again, it goes on from its --run_file.
#SBATCH --job-name=wanmpi --output=%x-%j.log
#SBATCH --nodes=1 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8 --time=04:00:00
exec srun --mpi=pmix wanmpi generate "$@"
