"""Recognisers of transformers are found, batched and scored like ours."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from tests.infer.helpers import tones, write_wav
from tiny_audio.errors import CheckpointError, ConfigError, HubError, ModelError
from tiny_audio.evaluate.models import (
    MODEL_FAILED,
    Options,
    TransformersAdapter,
    find_model,
    open_model,
)
from tiny_audio.evaluate.results import Record
from tiny_audio.evaluate.run import evaluate_command

OPTIONS = Options("cpu", 30.0, 8)
SECONDS = [0.6, 2.0, 0.0001, 1.1, 33.0, 0.9]
LETTERS = "etaoinshrdlu"


def save_ctc(folder: Path) -> str:
    """A wav2vec 2.0 with random weights, loud enough to say more than blanks."""
    folder.mkdir(parents=True)
    words = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, conv_dim=(8, 8, 8), conv_stride=(10, 8, 4), conv_kernel=(10, 8, 4),
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, feat_extract_norm="layer",
        do_stable_layer_norm=True, pad_token_id=0,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(50)
    model.save_pretrained(folder)
    return str(folder)


def save_whisper(folder: Path) -> str:
    """An English Whisper with random weights, large enough for texts to differ."""
    folder.mkdir(parents=True)
    plain = ["<|endoftext|>", *LETTERS, *(f"Ġ{letter}" for letter in LETTERS)]
    special = ["<|startoftranscript|>", "<|notimestamps|>"]
    vocabulary = {word: i for i, word in enumerate([*plain, *special])}
    tokenizer = WhisperTokenizer(
        vocab={word: vocabulary[word] for word in plain}, merges=[],
        unk_token="<|endoftext|>", bos_token="<|endoftext|>", eos_token="<|endoftext|>",
        pad_token="<|endoftext|>", additional_special_tokens=special,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(vocabulary), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_mel_bins=80, max_target_positions=32, pad_token_id=0,
        bos_token_id=0, eos_token_id=0, decoder_start_token_id=len(plain),
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.model.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight.mul_(12)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=len(plain), eos_token_id=0, pad_token_id=0, bos_token_id=0,
        max_length=24, no_timestamps_token_id=len(plain) + 1, is_multilingual=False,
        suppress_tokens=[len(plain), len(plain) + 1],
    )  # fmt: skip
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["ctc", "whisper"])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    save = {"ctc": save_ctc, "whisper": save_whisper}[request.param]
    return save(tmp_path_factory.mktemp("foreign") / request.param)


def adapter(name: str, batch_seconds: float = 40.0, utterances: int = 4) -> TransformersAdapter:
    return TransformersAdapter(name, Options("cpu", batch_seconds, utterances))


def recordings(clips: list[np.ndarray]) -> list[tuple[Record, np.ndarray]]:
    return [(Record(str(i), "s", "", "", 0.0, 0.0), clip) for i, clip in enumerate(clips)]


def test_texts_are_those_of_the_pipeline_itself(foreign: str) -> None:
    from transformers import pipeline

    clips = tones([0.7, 1.5, 3.0])
    stock = pipeline("automatic-speech-recognition", model=foreign, device="cpu")
    greedy = {"generate_kwargs": {"num_beams": 1}} if stock.type != "ctc" else {}
    raw = [{"raw": clip.copy(), "sampling_rate": 16_000} for clip in clips]
    expected = [stock(one, **greedy)["text"].strip() for one in raw]
    answers = list(adapter(foreign).transcribe(recordings(clips)))
    assert [answers[i].hypothesis for i in range(3)] == expected
    assert all(answer.logprob is None for answer in answers)
    assert len(set(expected)) > 1


def test_batches_change_neither_texts_nor_order(foreign: str) -> None:
    clips = tones(SECONDS)
    whole = list(adapter(foreign).transcribe(recordings(clips)))
    single = list(adapter(foreign, batch_seconds=0.1, utterances=1).transcribe(recordings(clips)))
    assert [record.id for record in whole] == [str(i) for i in range(len(clips))]
    assert [replace(r, seconds=0.0) for r in whole] == [replace(r, seconds=0.0) for r in single]
    assert [record.duration for record in whole] == [len(clip) / 16_000 for clip in clips]
    assert [record.error for record in whole] == [None, None, "too_short", None, None, None]
    assert " " in whole[4].hypothesis  # cut into two, as for our own models
    assert whole[4].seconds > whole[0].seconds > 0


def test_a_clip_on_which_the_model_fails_is_a_failure_of_its_own(foreign: str) -> None:
    found = adapter(foreign)

    def refuse(_: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor) and value.isnan().any():
                raise RuntimeError("not a number")

    model = found._pipeline.model
    part = model.wav2vec2 if hasattr(model, "wav2vec2") else model.model.encoder
    part.register_forward_pre_hook(refuse, with_kwargs=True)
    clips = tones([0.8, 0.9, 1.0])
    clips[1][:] = np.nan
    answers = list(found.transcribe(recordings(clips)))
    assert [answers[i].error for i in range(3)] == [None, MODEL_FAILED, None]
    assert answers[1].message == "RuntimeError: not a number"
    assert answers[0].hypothesis


def test_ours_and_foreign_models_are_told_apart(foreign, checkpoint, tmp_path):
    assert not find_model(foreign, "best").ours
    assert find_model(checkpoint, "best").ours
    assert find_model("nano", "best").ours
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty"):
        find_model(str(tmp_path / "empty"), "best")
    with pytest.raises(HubError, match="somebody/something"):
        find_model("somebody/something", "best")
    with pytest.raises(ConfigError, match="best or last"):
        find_model("nano", "newest")


def test_what_cannot_be_used_is_refused_in_a_line(tmp_path: Path, checkpoint: str) -> None:
    ctc = save_ctc(tmp_path / "ctc")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for name, changes, message in (
        (str(tmp_path), {}, "does not load as a speech recogniser"),
        (ctc, {"beams": 4}, "--beams"),
        (ctc, {"quantise": "int8"}, "--quantise"),
        (checkpoint, {"language": "en"}, "--language"),
    ):
        with pytest.raises((ConfigError, ModelError), match=message) as caught:
            open_model(find_model(name, "best"), replace(OPTIONS, **changes))
        assert "\n" not in str(caught.value)


def test_several_models_on_several_sets(foreign: str, checkpoint: str, tmp_path: Path) -> None:
    sets = [tmp_path / "news", tmp_path / "talks"]
    for folder in sets:
        folder.mkdir()
        for number, clip in enumerate(tones([0.7, 1.2])):
            write_wav(folder / f"{number}.wav", clip)
            (folder / f"{number}.txt").write_text("a rose is a rose")
    found = evaluate_command(
        [checkpoint, foreign],
        [str(folder) for folder in sets],
        out=tmp_path / "out",
        scoring="basic",
        options=OPTIONS,
    )
    assert list(found) == [checkpoint, foreign]
    for model, evaluation in found.items():
        assert [(r.model, r.set, r.id) for r in evaluation.records] == [
            (model, name, f"{i}.wav") for name in ("news", "talks") for i in range(2)
        ]
        assert {r.logprob is None for r in evaluation.records} == {model == foreign}
