"""The benchmarks measure what they say, and compare computations of the same thing."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from bench.agree import check_text, check_training
from bench.flops import Flops
from bench.infer import MEASURES, OPTIONS, switched_off, variants
from bench.load import Collator, durations, load_pair, utterances
from bench.startup import commands, timed
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import data
from tiny_audio.model.speech import SpeechModel


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    return load_pair("tiny", torch.device("cpu"), random=True)


def test_same_loss_and_gradients(model: SpeechModel) -> None:
    assert check_training(model)


def test_same_tokens(model: SpeechModel) -> None:
    assert check_text(model)


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


def test_exact_rows_write_the_tokens_of_the_plain_way() -> None:
    model = load_pair("tiny", torch.device("cpu"), random=True).eval()
    pool = utterances(durations("commands", 20))
    expected: dict[str, list[int]] = {}
    exact = []
    for variant in variants(model, pool):
        if variant.window or not variant.exact:  # hears the silence too, or has other weights
            continue
        with switched_off(variant.without), torch.no_grad():
            for members in variant.batches:
                for one, ids in zip(members, variant.run(members), strict=True):
                    assert expected.setdefault(one.id, ids) == ids
        exact.append(variant.name)
    assert len(expected) == len(pool)
    assert len(exact) == 5


def test_a_measure_is_off_only_inside() -> None:
    assert OPTIONS.cuda_graphs
    with switched_off(tuple(MEASURES)):
        assert not OPTIONS.cuda_graphs
    assert OPTIONS.cuda_graphs


@pytest.mark.parametrize("kind", list(data.FORMATS))
def test_a_corpus_holds_what_its_manifest_says(kind: str, tmp_path: Path) -> None:
    (source,) = data._open(data.make_corpus(tmp_path / "c", kind, 3))
    records = list(source.records())
    assert [r.seconds for r in records] == pytest.approx(durations("speech", 3), abs=1e-3)
    for record in records:
        assert soundfile.info(record.audio).subtype == {"FLAC": "PCM_16", "Opus": "OPUS"}[kind]


def test_every_step_yields_all_the_audio(tmp_path: Path) -> None:
    manifest = data.make_corpus(tmp_path / "c", "FLAC", 2)
    expected = sum(durations("speech", 2))
    steps = dict(data._steps(manifest, data.make_augmenter(tmp_path)))
    assert sum(steps["decode"]()) == pytest.approx(expected, abs=0.01)
    assert sum(steps["+ clean"]()) == pytest.approx(expected, abs=0.01)
    assert len(list(steps["clean + augment"]())) == 2  # nothing is rejected by its quality
    audio = 0.0
    for seconds in steps["+ batch, 0 workers"]():  # endless
        audio += seconds
        if audio > 2 * expected - 0.01:
            break
    assert audio == pytest.approx(2 * expected, abs=0.01)


def test_every_change_of_the_augmentation_is_on(tmp_path: Path) -> None:
    augment = data.make_augmenter(tmp_path)
    kinds = ("speed", "room", "noise", "band", "telephone", "gain")
    assert {augment.settings[kind]["p"] for kind in kinds} == {0.5}
    wave = data.speechlike(2.0, 0)
    heard = [augment(wave, source="s", id=str(n), epoch=0)[0] for n in range(5)]
    assert any(len(h) != len(wave) or not np.array_equal(h, wave) for h in heard)


def test_memory_is_flat(capsys: pytest.CaptureFixture[str]) -> None:
    assert data.flat(600)
    assert "memory: flat" in capsys.readouterr().out


def test_time_of_the_processor_is_told_from_waiting() -> None:
    wall, core, status = timed([sys.executable, "-c", "sum(range(10**7))"])
    assert status == 0
    assert 0.02 < core < wall + 0.05
    wait = "import sys, time; time.sleep(0.5); sys.exit(3)"
    wall, core, status = timed([sys.executable, "-c", wait])
    assert wall > 0.5 > core
    assert status == 3


def test_the_light_commands_end_well(tmp_path: Path) -> None:
    found = commands(tmp_path / "none.wav")
    for name in list(found)[:2]:
        assert timed(found[name])[2] == 0, name
