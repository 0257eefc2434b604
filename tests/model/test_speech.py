"""The whole model: one prefill, loss on label positions alone, texts that padding cannot change."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, Gemma2ForCausalLM

from tests.model.helpers import make_batch, model_config, noise, tiny_model
from tiny_audio.config import GenerationConfig
from tiny_audio.errors import ConfigError
from tiny_audio.model.batch import IGNORE, Batch, label_positions
from tiny_audio.model.speech import SpeechModel, head_is_plain

SECONDS = [2.0, 1.1, 0.5]
TEXTS = ["a cat sat", "here", "a much longer line of words than its sound could hold"]


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    """The tiny pair, its projector moved so that audio matters to what is written."""
    built = tiny_model()
    with torch.no_grad():
        for weight in built.projector.parameters():
            weight.mul_(3.0)
    return built


def test_label_only_loss_equals_the_full_logit_loss(model: SpeechModel) -> None:
    batch = make_batch(model, noise(SECONDS), TEXTS)
    loss = model.loss(batch)
    prefill = model.prefill(batch)
    logits = model.causal_lm(
        inputs_embeds=prefill.inputs_embeds, attention_mask=prefill.attention_mask
    ).logits
    full = cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORE
    )
    assert loss.n_tokens == sum(len(t.encode()) + 1 for t in TEXTS)
    assert torch.isclose(loss.total / loss.n_tokens, full, atol=1e-5)


def gradient(model: SpeechModel, batches: list[Batch]) -> torch.Tensor:
    model.projector.zero_grad()
    for batch in batches:
        model.loss(batch).total.backward()
    return torch.cat([p.grad.flatten() for p in model.projector.parameters()])


def test_label_positions_are_the_positions_before_the_labels() -> None:
    labels = torch.full((2, 5), IGNORE)
    labels[0, 3:], labels[1, 1] = 7, 9
    assert label_positions(labels).tolist() == [2, 3, 5]
    labels[1, 0] = 4  # nothing comes before it in its row
    assert label_positions(labels).tolist() == [2, 3, 5]


def test_rows_of_a_batch_are_that_batch(model: SpeechModel) -> None:
    """Losses and gradients of the parts add up to those of the whole."""
    batch = make_batch(model, noise(SECONDS), TEXTS)
    parts = [batch.rows(0, 2), batch.rows(2, 3)]
    assert parts[1].waveform.shape[1] == batch.waveform_lengths[2]
    assert parts[0].input_ids.shape[1] < batch.input_ids.shape[1]
    assert [p.ids for p in parts] == [batch.ids[:2], batch.ids[2:]]
    gradients = [gradient(model, batches) for batches in (parts, [batch])]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_frames_that_are_there_take_the_place_of_the_encoder(model: SpeechModel) -> None:
    batch = make_batch(model, noise(SECONDS), TEXTS)
    frames, lengths = model.encode(batch.waveform, batch.waveform_lengths)
    heard = replace(batch, waveform=batch.waveform * 0, frames=frames, frame_lengths=lengths)
    assert torch.equal(model.loss(heard).total, model.loss(batch).total)


def test_training_needs_no_padding_mask(model: SpeechModel) -> None:
    """Padding is on the right, where causal attention never looks."""
    batch = make_batch(model, noise(SECONDS), TEXTS)
    with torch.no_grad():
        embeds, mask, positions = model.prefill(batch)
        masked = model.causal_lm(inputs_embeds=embeds, attention_mask=mask, position_ids=positions)
        unmasked = model.causal_lm(inputs_embeds=embeds)
    real = mask.bool()
    torch.testing.assert_close(unmasked.logits[real], masked.logits[real], atol=1e-5, rtol=1e-5)


def test_audio_tokens_stand_where_the_prompt_keeps_places(model: SpeechModel) -> None:
    batch = make_batch(model, noise(SECONDS))
    tokens, lengths = model.embed_audio(batch.waveform, batch.waveform_lengths)
    embeds = model.prefill(batch).inputs_embeds
    for row, count in enumerate(lengths.tolist()):
        assert torch.equal(embeds[row][batch.audio_mask[row]], tokens[row, :count])
    written = model.causal_lm.get_input_embeddings()(batch.input_ids)
    assert torch.equal(embeds[~batch.audio_mask], written[~batch.audio_mask])


def test_audio_tokens_of_ints_and_tensors_agree(model: SpeechModel) -> None:
    lengths = [*range(0, 20_000, 79), 480_000]
    expected = [max(0, (((n // 160 - 1) // 2 + 1) - 4) // 4 + 1) for n in lengths]
    assert [model.audio_tokens(n) for n in lengths] == expected
    assert model.audio_tokens(torch.tensor(lengths)).tolist() == expected


def test_text_alone_equals_text_in_any_batch_and_order(model: SpeechModel) -> None:
    clips, options = noise([2.0, 1.1, 0.5, 3.3]), GenerationConfig(stop_loops=False)
    together = model.generate(make_batch(model, clips), options)
    assert len({tuple(h.token_ids) for h in together}) > 1  # the audio does matter
    for clip, expected in zip(clips, together, strict=True):
        alone = model.generate(make_batch(model, [clip]), options)[0]
        assert alone.token_ids == expected.token_ids
        assert alone.text == expected.text
        assert alone.logprob == pytest.approx(expected.logprob, abs=1e-4)
    order = [2, 0, 3, 1]
    shuffled = model.generate(make_batch(model, [clips[i] for i in order]), options)
    assert [h.text for h in shuffled] == [together[i].text for i in order]


def test_new_tokens_are_capped_in_proportion_to_each_clip(model: SpeechModel) -> None:
    options = GenerationConfig(tokens_per_second=5.0, min_tokens=2, stop_loops=False)
    ours = model.generate(make_batch(model, noise([4.0, 1.0, 0.2])), options)
    assert all(len(h.token_ids) <= cap for h in ours for cap in [20])
    assert [len(h.token_ids) for h in ours if not h.finished] == [
        cap for h, cap in zip(ours, [20, 5, 2], strict=True) if not h.finished
    ]


def test_beams_and_sampling_run_and_sampling_follows_the_seed(model: SpeechModel) -> None:
    batch = make_batch(model, noise(SECONDS))
    assert len(model.generate(batch, GenerationConfig(num_beams=3))) == 3
    drawn = []
    for seed in (1, 1, 2):
        options = GenerationConfig(do_sample=True, temperature=1.5, top_p=0.9, seed=seed)
        drawn.append([h.token_ids for h in model.generate(batch, options)])
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(ConfigError, match="top_p"):
        model.generate(batch, GenerationConfig(do_sample=True, top_p=0.0))


def test_native_padding_gives_as_many_tokens(model: SpeechModel) -> None:
    config = model_config()
    config.encoder.padding = "native"
    native = tiny_model(encoder=config.encoder)
    batch = make_batch(native, noise([1.5, 0.8]), ["a", "b"])
    tokens, lengths = native.embed_audio(batch.waveform, batch.waveform_lengths)
    assert lengths.tolist() == [native.audio_tokens(n) for n in batch.waveform_lengths.tolist()]
    assert tokens.shape[1] == int(lengths.max())
    assert native.loss(batch).total.isfinite()


def test_a_decoder_that_caps_its_logits_is_noticed() -> None:
    sizes = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    capped = Gemma2ForCausalLM(Gemma2Config(**sizes, final_logit_softcapping=0.05)).eval()
    assert not head_is_plain(capped)
    assert head_is_plain(tiny_model().causal_lm)
