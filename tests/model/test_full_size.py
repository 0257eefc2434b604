"""The big pair at its real size with random weights: one step and one transcript on a CPU."""

import subprocess
import sys

import pytest

STEP = """
import resource, torch
from tests.model.helpers import make_batch, model_config, noise
from tiny_audio.config import GenerationConfig
from tiny_audio.model.build import build_model

config = model_config("glm_qwen3")
config.random_weights, config.dtype = True, "float32"  # bf16 is very slow on some CPUs
config.projector.type = {projector!r}
model = build_model(config, device=torch.device("cpu"))
clips = noise([1.5, 0.8])
model.train()
model.loss(make_batch(model, clips, ["a cat", "no"])).total.backward()
grads = sorted({{name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}})
assert grads == ["projector"], grads
torch.optim.AdamW(model.projector.parameters(), lr=1e-3).step()
model.eval()
options = GenerationConfig(min_tokens=3, tokens_per_second=1)
assert len(model.generate(make_batch(model, clips), options)) == 2
count = lambda part: sum(p.numel() for p in part.parameters())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(count(model.encoder), count(model.decoder), peak)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("projector", ["mlp", "mosa", "moe", "qformer"])
def test_full_size_pair_steps_and_transcribes_within_12_gb(projector: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", STEP.format(projector=projector)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    encoder, decoder, peak = run.stdout.split()
    assert 600e6 < int(encoder) < 660e6
    assert 590e6 < int(decoder) < 600e6
    assert float(peak) < 12.0
