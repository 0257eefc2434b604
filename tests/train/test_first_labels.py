"""Labels that the decoder would not write are told of, or mended, before the first step."""

import shutil

import pytest
import torch

from tests.train.helpers import RESUME, TEXTS, rows, run
from tiny_audio.model.checkpoint import find_checkpoint, load_checkpoint, read_config
from tiny_audio.train.evaluation import describe, nats_a_word


def test_the_decoder_tells_which_way_of_writing_it_would_choose() -> None:
    model = load_checkpoint(find_checkpoint("nano"), device="cpu")
    lower = [f"the {text} is here" for text in TEXTS]
    loud = [text.upper() for text in lower]
    assert nats_a_word(model, loud, loud) > 2 * nats_a_word(model, lower, lower)
    one_by_one = [nats_a_word(model, [text], [text]) for text in lower]  # padding changes nothing
    words = [len(text.split()) for text in lower]
    mean = sum(n * w for n, w in zip(one_by_one, words, strict=True)) / sum(words)
    assert nats_a_word(model, lower, lower) == pytest.approx(mean, rel=1e-4)
    state = torch.get_rng_state()
    assert len(describe(model, lower)) == 1
    facts, advice = describe(model, [*loud, *lower])
    assert "50% in capitals, 0% with punctuation" in facts
    assert advice.endswith("times less likely than in lower case: set data.labels.case=lower")
    assert torch.equal(torch.get_rng_state(), state)
    assert describe(model, []) == []


@pytest.mark.slow
def test_a_set_in_capitals_trains_as_its_lower_case_does_and_goes_on_so(data, tmp_path, capsys):
    loud = tmp_path / "loud"
    shutil.copytree(data, loud)
    for text in loud.glob("*.txt"):
        text.write_text(text.read_text().upper())
    short = ("training.eval_steps=1", "training.eval_utterances=0")
    run(data, tmp_path / "a", *short, "training.max_steps=3")
    first = run(loud, tmp_path / "b", *short, "training.max_steps=2", "training.warmup_steps=0")
    said = capsys.readouterr().out
    assert "Labels of main: 100% are in capitals; all are learned in lower case" in said
    assert read_config(first.last).data.labels.case_of == {"main": "lower"}
    for text in list(loud.glob("*.txt"))[4:]:  # would be judged otherwise now
        text.write_text(text.read_text().lower())
    last = run(loud, tmp_path / "b", *short, "training.max_steps=3", RESUME).last
    assert read_config(last).data.labels.case_of == {"main": "lower"}
    assert "in capitals" not in capsys.readouterr().out
    for kind, key in (("train", "samples"), ("train", "guess_loss")):
        assert [r[key] for r in rows(tmp_path / "a", kind)] == [
            r[key] for r in rows(tmp_path / "b", kind)
        ]
    assert rows(tmp_path / "a", "eval")[0]["step"] == 1  # nothing to compare a fresh start with
