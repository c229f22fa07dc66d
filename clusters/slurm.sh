#!/bin/bash
# Four nodes of four cards: sbatch clusters/slurm.sh notebooks/02_micro_conditioning.ipynb params/motion_svd_xt.yaml
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Ray starts on every node, the command runs once, on the first, and Ray ends with it.
srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$SLURM_GPUS_ON_NODE" -- svdlab run "$@" --on auto
