"""Small projectors of every kind, for the tests of this folder."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tiny_audio.model.projectors import Projector, build_projector

D, W, RMS = 12, 20, 0.03  # encoder width, decoder width, RMS of the tokens
MOE = {"experts": 4, "top_k": 2, "balance_weight": 0.01, "z_weight": 0.001, "jitter": 0.01}
QFORMER = {"window": 5, "queries": 2, "layers": 2, "heads": 2, "hidden": 16, "intermediate": 24}
OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"stride": 4, "hidden": 16},
    "mosa": {"stride": 4, "adapters": 3, "hidden": 10, "router_hidden": 6},
    "moe": {"stride": 4, "hidden": 10, **MOE},
    "qformer": QFORMER,
    "glm": {"stride": 4},
}


@pytest.fixture(params=list(OPTIONS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def make() -> Callable[..., Projector]:
    def build(kind: str, **changes: Any) -> Projector:
        torch.manual_seed(3)
        return build_projector(kind, D, W, RMS, {**OPTIONS[kind], **changes})

    return build
