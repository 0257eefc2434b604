"""A CUDA graph: launches a whole decoding step at once, where one by one they outlast the work."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

Run = Callable[[], Tensor]

logger = logging.getLogger(__name__)


def capture_cuda(run: Run) -> Run:
    """Capture a function whose inputs stay where they are into a CUDA graph.

    One that cannot be captured is called as it is, with a warning.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is set up on first use must not be captured
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            logits = run()
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = str(error).strip().splitlines()[0]
        logger.warning("The decoding step runs without a CUDA graph: %s", first)
        return run

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay
