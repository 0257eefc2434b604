"""How fast Tiny Audio is: against the machine's own limit, and against the plain way.

    python -m bench train infer --pair small              a CPU, about three minutes
    python -m bench train infer check --pair glm_qwen3 --random     a CUDA device, full size

docs/benchmarks.md says what the rows mean and what was measured.
"""

import os

# Every batch has shapes of its own; fixed segments would fragment until memory runs out at half of
# what fits. For every row alike. Read by PyTorch when CUDA is first used.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
