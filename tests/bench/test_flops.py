"""The counted operations are those that PyTorch counts while it runs."""

from __future__ import annotations

import pytest
import torch
from bench.flops import Flops
from bench.load import Collator, durations, load_pair, utterances
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tiny_audio.model.speech import SpeechModel


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    return load_pair("tiny", torch.device("cpu"), random=True)


def test_encoder(model: SpeechModel) -> None:
    (one,) = utterances([3.0])
    batch = Collator(model, None, labels=False)([one]).batch
    mel, lengths = model.features(batch.waveform, batch.waveform_lengths)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model.encoder(mel, lengths)
    assert Flops(model).encoder(len(one.waveform)) == pytest.approx(counted.get_total_flops(), 0.02)


def test_training_step(model: SpeechModel) -> None:
    model.train()
    (one,) = utterances([3.0])
    batch = Collator(model, None, labels=True)([one]).batch
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model.loss(batch).total.backward()
    mel = model.features.out_len(len(one.waveform))
    log_mel = 2 * mel * model.features.filters.numel()
    config = model.causal_lm.config
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    unseen = 6 * width * batch.input_ids.shape[1] ** 2  # this kernel does all of the square
    expected = Flops(model).training(one) + log_mel + unseen
    assert expected == pytest.approx(counted.get_total_flops(), 0.02)


def test_lengths_are_as_documented() -> None:
    speech, commands = durations("speech", 4096), durations("commands", 4096)
    assert min(speech) >= 2
    assert max(speech) <= 20
    assert 11 < sum(speech) / 4096 < 13
    assert min(commands) >= 1
    assert max(commands) <= 5
    assert speech[:64] == durations("speech", 64)
