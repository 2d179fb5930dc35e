#!/usr/bin/env bash
# One job on one node of a Slurm cluster: Ray runs inside the command, so nothing has to be started.
#
#     sbatch slurm-one-node.sh
#
# Edit the three values below, and the partition and the GPUs that your site names. Submitting again resumes the run.
# Sizes, from `submit plan head-scan --model gpt2-xl --gpus 4` (gpt2 itself takes a fifth): a worker 1.7 GB of its own,
# the object store 7.6 GB, the driver 7.0 GB: 4 x 1.7 + 7.6 + 7.0 + Ray's own 2 GB = 24 GB; 4 cores a GPU.
#SBATCH --job-name=qkatlas
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=24G
#SBATCH --time=02:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

job=(full-vocab --model "$HOME/models/gpt2" --head L1H5)  # EDIT: what to compute
out=${QKATLAS_OUT:-$HOME/qkatlas-runs}                    # EDIT: a folder, or s3://BUCKET/runs
environment=${QKATLAS_ENV:-$HOME/qkatlas/.venv}           # EDIT: where the project is installed

export PATH="$environment/bin:$PATH"
# Ray's sockets need a short path, and each job a place of its own.
scratch=/tmp/qkatlas-${SLURM_JOB_ID:?this script runs under sbatch}
export RAY_TMPDIR=$scratch
mkdir -p "$scratch"
trap 'rm -rf -- "$scratch"' EXIT

submit "${job[@]}" --gpus "${SLURM_GPUS_ON_NODE:-0}" --out "$out" &
driver=$!
# Slurm sends TERM two minutes before the time is up: the command keeps what is committed, and ends.
trap 'kill -TERM "$driver" 2>/dev/null || true' TERM INT
code=0
wait "$driver" || code=$?
# A signal ends the wait before the command has ended.
while kill -0 "$driver" 2>/dev/null; do
  code=0
  wait "$driver" || code=$?
done
exit "$code"
