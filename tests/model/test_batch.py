"""A batch in parts, and where its labels are predicted."""

from __future__ import annotations

from dataclasses import replace

import torch

from tests.model.helpers import make_batch, noise, tiny_model
from tiny_audio.model.batch import IGNORE, Batch, label_positions
from tiny_audio.model.speech import SpeechModel

TEXTS = ["one two three", "a", "four five"]


def gradient(model: SpeechModel, batches: list[Batch]) -> torch.Tensor:
    model.projector.zero_grad()
    for batch in batches:
        model.loss(batch).total.backward()
    return torch.cat([p.grad.flatten() for p in model.projector.parameters()])


def ragged(model: SpeechModel) -> Batch:
    return make_batch(model, noise([2.0, 0.7, 1.3]), TEXTS)


def test_label_positions_are_the_positions_before_the_labels() -> None:
    labels = torch.full((2, 5), IGNORE)
    labels[0, 3:], labels[1, 1] = 7, 9
    assert label_positions(labels).tolist() == [2, 3, 5]
    labels[1, 0] = 4  # nothing comes before it in its row
    assert label_positions(labels).tolist() == [2, 3, 5]


def test_rows_of_a_batch_are_that_batch() -> None:
    """Losses and gradients of the parts add up to those of the whole."""
    model = tiny_model()
    batch = ragged(model)
    parts = [batch.rows(0, 1), batch.rows(1, 3)]
    assert parts[1].waveform.shape[1] == batch.waveform_lengths[1:].max()
    assert parts[1].input_ids.shape[1] < batch.input_ids.shape[1]
    assert [p.ids for p in parts] == [batch.ids[:1], batch.ids[1:]]
    torch.testing.assert_close(
        gradient(model, parts), gradient(model, [batch]), atol=1e-5, rtol=1e-4
    )


def test_frames_that_are_there_take_the_place_of_the_encoder() -> None:
    model = tiny_model()
    batch = ragged(model)
    frames, lengths = model.encode(batch.waveform, batch.waveform_lengths)
    heard = replace(batch, waveform=batch.waveform * 0, frames=frames, frame_lengths=lengths)
    assert torch.equal(model.loss(heard).total, model.loss(batch).total)
    part = heard.rows(1, 2)
    assert part.frames is not None
    assert part.frames.shape[1] == lengths[1]


def test_training_needs_no_padding_mask() -> None:
    """Padding is on the right, where causal attention never looks."""
    model = tiny_model()
    batch = ragged(model)
    with torch.no_grad():
        prefill, places = model.prefill(batch), label_positions(batch.labels)
        masked = model.label_logits(prefill, places)
        unmasked = model.label_logits(prefill, places, masked=False)
    torch.testing.assert_close(unmasked, masked, atol=1e-5, rtol=1e-5)
