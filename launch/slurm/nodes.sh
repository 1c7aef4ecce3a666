#!/bin/bash
# One video on the GPUs of several nodes, which must see the program, the checkpoint and the output under the same
# paths:
#     sbatch --nodes=4 launch/slurm/nodes.sh --ckpt_dir DIR --prompt "..." --save_file cat.mp4 --run_file cat.h5
# Takes the flags of `wanmpi generate`. The mesh is chosen: Ulysses inside a node, a ring across nodes.
#SBATCH --job-name=wanmpi --output=%x-%j.log
#SBATCH --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8 --time=04:00:00
exec srun --mpi=pmix wanmpi generate "$@"
