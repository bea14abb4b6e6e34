#!/bin/bash
# A run on one to four nodes that may come and go: the same line on each of them, HEAD being the first.
#   HEAD=node1 examples/elastic.sh imagenet256-xl2 --precision bf16 --compile \
#     --micro-batches 32 -p recipe.coupling.pool 4096
# When a process dies or a node joins or leaves, torchrun starts all processes again, and they resume from the newest
# checkpoint. Their number must divide the micro-batches of a step: of the first start, or --micro-batches. Pools count
# micro-batches: 128 for each of a step. Here that is 4096 of 8 rows, in 3.3 GB of main memory for each of the 32.
# torchrun takes a divergence for a fault as well, whatever the exit status: the run starts again from the newest
# checkpoint and ends with the same message, up to RESTARTS times. End it by hand, and see book/failures.md.
# A store of its own for every start: in one that is shared, processes find the addresses of those that died.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec torchrun --nnodes "${NODES:-1:4}" --nproc-per-node "${PROCESSES:-8}" --max-restarts "${RESTARTS:-100}" \
  --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost}:${PORT:-29400}" --rdzv-id ismkit \
  -m ismkit train "$@" --resume
