"""Recognisers of transformers are found, batched and scored like ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluate.foreign import save_ctc, save_whisper
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

SECONDS = [0.6, 2.0, 0.0001, 1.1, 33.0, 0.9]


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
    long = whole[4]
    assert " " in long.hypothesis  # cut into two, as for our own models
    assert long.seconds > whole[0].seconds > 0


def test_what_is_too_short_for_a_frame_is_a_failure_not_an_empty_text(tmp_path: Path) -> None:
    answers = list(adapter(save_ctc(tmp_path / "ctc")).transcribe(recordings(tones(SECONDS))))
    assert answers[2].error == "too_short"
    assert [answers[i].error for i in (0, 1, 3, 4, 5)] == [None] * 5


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


def test_ours_and_foreign_models_are_told_apart(
    foreign: str, checkpoint: str, tmp_path: Path
) -> None:
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


def test_a_run_is_its_best_or_its_last_checkpoint(checkpoint: str, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("step-1", "step-2"):
        (folder / name).symlink_to(checkpoint)
    (folder / "index.json").write_text('{"best": "step-1", "last": "step-2", "checkpoints": []}')
    assert find_model(str(tmp_path / "run"), "best").path == str(folder / "step-1")
    assert find_model(str(tmp_path / "run"), "last").path == str(folder / "step-2")


def test_a_model_that_does_not_load_says_so_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    options = Options("cpu", 30.0, 8, 1, None)
    with pytest.raises(ModelError, match="does not load as a speech recogniser") as caught:
        open_model(find_model(str(tmp_path), "best"), options)
    assert "\n" not in str(caught.value)


def test_options_that_a_model_does_not_have_are_refused(tmp_path: Path, checkpoint: str) -> None:
    ctc = save_ctc(tmp_path / "ctc")
    with pytest.raises(ModelError, match="--beams"):
        open_model(find_model(ctc, "best"), Options("cpu", 30.0, 8, 4, None))
    with pytest.raises(ConfigError, match="--language"):
        open_model(find_model(checkpoint, "best"), Options("cpu", 30.0, 8, 1, "en"))


def test_several_models_on_several_sets(foreign: str, checkpoint: str, tmp_path: Path) -> None:
    for name in ("news", "talks"):
        (tmp_path / name).mkdir()
        for number, clip in enumerate(tones([0.7, 1.2], seed=len(name))):
            write_wav(tmp_path / name / f"{number}.wav", clip)
            (tmp_path / name / f"{number}.txt").write_text("a rose is a rose")
    torch.manual_seed(0)
    found = evaluate_command(
        [checkpoint, foreign],
        [str(tmp_path / "news"), str(tmp_path / "talks")],
        out=tmp_path / "out",
        scoring="basic",
        options=Options("cpu", 30.0, 8, 1, None),
    )
    assert list(found) == [checkpoint, foreign]
    for model, evaluation in found.items():
        assert [(r.model, r.set, r.id) for r in evaluation.records] == [
            (model, name, f"{i}.wav") for name in ("news", "talks") for i in range(2)
        ]
    assert all(r.logprob is not None for r in found[checkpoint].records)
    assert all(r.logprob is None for r in found[foreign].records)
