#!/usr/bin/env bash
# One agent of a sweep, as a SLURM array: each task runs one point after another until none is left.
#
#   sbatch --array=1-8 sweeps/slurm_agents.sh ENTITY/cgfe/SWEEP_ID             agents of W&B
#   sbatch --array=1-8 sweeps/slurm_agents.sh sweeps/energy_weight.yaml        without an account
#
# Without an account the tasks share runs/sweep-NAME, so the folder must lie on a file system that
# all nodes see and that keeps file locks (NFS 4, Lustre with flock, GPFS). A task that is preempted
# or out of time is requeued, and its runs go on from their last checkpoints.
#SBATCH --job-name=cgfe-sweep
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=runs/slurm-%A_%a.txt
set -euo pipefail
sweep=${1:?"give a sweep: ENTITY/PROJECT/ID of W&B, or a sweep file"}
cd "${SLURM_SUBMIT_DIR:-.}"
if [[ -f $sweep ]]; then
    exec "${PYTHON:-python}" -m cgfe sweep "$sweep" --jobs 1 "${@:2}"
fi
exec wandb agent "${@:2}" "$sweep"
