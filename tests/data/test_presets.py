"""The data presets: each composes, and names what its source needs."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from pathlib import Path

import pytest

import tiny_audio
from tiny_audio.compose import compose
from tiny_audio.data.sources import KINDS

CONF = Path(tiny_audio.__file__).parent / "conf" / "data"
PRESETS = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_into_sources_that_can_be_opened(preset):
    data = compose(["model=tiny", f"data={preset}", "data.path=here"]).data
    assert data.train
    for name, source in [*data.train.items(), *data.eval.items()]:
        _, meaningless, options = KINDS[source.kind]
        given = asdict(source)
        assert not [field for field in meaningless if given[field] is not None], name
        assert options is None or not set(source.options) - set(options), name
        assert source.path or source.kind == "synthetic" or name in data.eval, name
    for source, other in product(data.train.values(), data.eval.values()):
        mine, yours = ((s.path, s.subset, s.split) for s in (source, other))
        assert mine != yours or source.path == "here", "what is learned is not evaluated on"


def test_the_mixture_has_shares_of_hours():
    data, gated = (compose([f"data={name}"]).data for name in ("multiasr", "multiasr_gated"))
    assert data.weights == gated.weights == "hours"
    assert all(source.mean_seconds for source in data.train.values())
    weights = {name: source.weight for name, source in data.train.items()}
    assert sum(weight for name, weight in weights.items() if name.startswith("libri")) == 960
    assert gated.train.keys() - data.train.keys() == {"gigaspeech", "spgispeech"}
