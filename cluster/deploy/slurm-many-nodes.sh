#!/usr/bin/env bash
# One job on several nodes of a Slurm cluster: a Ray cluster of this job's own, one ray process a node.
#
#     sbatch slurm-many-nodes.sh
#
# Edit the three values below, the number of nodes, and the partition and the GPUs that your site names. The home folder
# must be shared by the nodes (it holds the cluster's token), and --out must be too, or an object store. Submitting
# again resumes the run. Exits with submit's code: 0 complete, 1 shards failed, 2 a bad request; also 1 if the cluster
# could not be started.
# Sizes, from `submit plan head-scan --model gpt2-xl --gpus 8` (gpt2 itself takes a fifth): a worker 1.7 GB of its own,
# the object store 7.6 GB on every node, the driver 7.0 GB on the first: 4 x 1.7 + 7.6 + 7.0 + Ray's own 2 GB = 24 GB;
# 4 cores a GPU.
#SBATCH --job-name=qkatlas
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=24G
#SBATCH --time=02:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

job=(head-scan --model "$HOME/models/gpt2")      # EDIT: what to compute
out=${QKATLAS_OUT:-$HOME/qkatlas-runs}           # EDIT: a folder that all nodes share, or s3://BUCKET/runs
environment=${QKATLAS_ENV:-$HOME/qkatlas/.venv}  # EDIT: where the project is installed, the same on all nodes
join_seconds=${QKATLAS_JOIN_SECONDS:-300}        # how long the nodes may take to join

export PATH="$environment/bin:$PATH"
: "${SLURM_JOB_ID:?this script runs under sbatch}"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
gpus=$((${SLURM_GPUS_ON_NODE:-0} * ${#nodes[@]}))
# Jobs that share a node must not meet: ports and folders follow from the job's number.
port=$((20000 + SLURM_JOB_ID % 10000))
address=$head:$port
scratch=/tmp/qkatlas-$SLURM_JOB_ID
steps=()
driver=

# shellcheck disable=SC2317  # called by the trap
stop() {
  code=$?
  trap '' TERM INT
  if [ -n "$driver" ]; then kill -TERM "$driver" 2>/dev/null || true; fi
  # The end of a step ends everything that ray started in it.
  for step in "${steps[@]}"; do kill -TERM "$step" 2>/dev/null || true; done
  wait || true
  rm -f -- "$RAY_AUTH_TOKEN_PATH"
  srun --overlap --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" rm -rf -- "$scratch" || true
  exit "$code"
}

# Only who has this job's token may join the cluster or run code on it.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=$HOME/.qkatlas-token-$SLURM_JOB_ID
export RAY_USAGE_STATS_ENABLED=0
trap stop EXIT
trap 'exit 143' TERM INT
(umask 077 && head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")

on_node() {  # on_node NODE COMMAND...: in the background, with all that the job has of that node
  local node=$1
  shift
  srun --nodes=1 --ntasks=1 --nodelist="$node" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "$@" &
  steps+=("$!")
}

joined() {
  python -c 'import sys, ray; ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False); print(sum(node["Alive"] for node in ray.nodes()))' "$address" 2>/dev/null || echo 0
}

resources=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats)
on_node "$head" ray start --head --block --port="$port" --ray-client-server-port=$((port + 10000)) \
  --include-dashboard=false --temp-dir="$scratch" "${resources[@]}"
for node in "${nodes[@]:1}"; do
  on_node "$node" ray start --block --address="$address" "${resources[@]}"
done

deadline=$((SECONDS + join_seconds))
until count=$(joined) && [ "$count" -ge "${#nodes[@]}" ]; do
  for step in "${steps[@]}"; do
    if ! kill -0 "$step" 2>/dev/null; then
      echo "slurm-many-nodes.sh: ray ended on a node before all had joined; its message is above" >&2
      exit 1
    fi
  done
  if [ "$SECONDS" -ge "$deadline" ]; then
    echo "slurm-many-nodes.sh: only $count of ${#nodes[@]} nodes joined within $join_seconds s; raise join_seconds, or see sinfo" >&2
    exit 1
  fi
  sleep "${QKATLAS_POLL_SECONDS:-5}"
done

submit "${job[@]}" --gpus "$gpus" --address "$address" --out "$out" &
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
driver=
exit "$code"
