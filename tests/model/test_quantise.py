"""Fewer bits: weights close to the old ones, the same layers in the same places."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from tests.model.helpers import make_batch, noise, tiny_model, with_lora
from tiny_audio.config import GenerationConfig
from tiny_audio.errors import ConfigError, ModelError
from tiny_audio.model.quantise import Int8Embedding, Int8Linear, quantise

# Widened weights, and PyTorch's kernels where this CPU has them.
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@DTYPES
@pytest.mark.parametrize("rows", [1, 200])
def test_outputs_are_close(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(48, 64), torch.randn(48), torch.randn(2, rows, 64)
    weight, bias, x = weight.to(dtype), bias.to(dtype), x.to(dtype)
    out, exact = Int8Linear(weight, bias)(x), linear(x.float(), weight.float(), bias.float())
    assert out.shape == exact.shape
    assert out.dtype == dtype
    assert (out.float() - exact).norm() / exact.norm() < 0.01


@DTYPES
def test_weights_on_the_grid_are_kept(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(-127, 128, (32, 64), generator=generator).to(dtype)
    integers[:, 0] = 127
    assert torch.equal(Int8Linear(integers, None).weight, integers.to(torch.int8))


def weight_bytes(model: nn.Module) -> int:
    """Memory of all weights, each counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def test_every_large_layer_is_smaller_and_adapters_are_left_alone() -> None:
    model = tiny_model()
    before, ids = weight_bytes(model), torch.arange(9)
    table = model.causal_lm.get_input_embeddings()(ids)
    with_lora(model, "all-linear")
    adapters = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and "lora_" in n]
    quantise(model.eval(), "int8")
    left = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert left == {*adapters, "projector.linear_1", "projector.linear_2"}
    looked_up = model.causal_lm.get_input_embeddings()
    assert isinstance(looked_up, Int8Embedding)
    assert looked_up.head is model.causal_lm.get_output_embeddings()
    assert (looked_up(ids) - table).norm() / table.norm() < 0.01
    assert weight_bytes(model) < 0.6 * before  # a fifth of the tiny pair is its projector
    clips = noise([1.0, 2.0])
    together = model.generate(make_batch(model, clips), GenerationConfig())
    assert len(together) == 2


def test_mistakes_are_named() -> None:
    model = tiny_model()
    with pytest.raises(ConfigError, match="int8"):
        quantise(model, "int5")
    with pytest.raises(ModelError, match="eval"):
        quantise(model.train(), "int8")
    assert quantise(model, None) is model
