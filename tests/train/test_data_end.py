"""Runs whose data ends before their steps do, or is lost on the way."""

import io
from pathlib import Path

import pytest
import soundfile

from tests.data.faulty import Fault, serving
from tests.data.helpers import write_tar
from tests.train.helpers import RESUME, rows, run, utterances

ONCE = ("data.exhausted=stop", "training.max_steps=50", "training.eval_steps=30")


@pytest.mark.slow
def test_a_run_ends_well_when_its_data_does(data, tmp_path, capsys):
    out = tmp_path / "run"
    summary = run(data, out, *ONCE, "training.save_steps=30")
    assert 2 <= summary.steps < 9
    assert summary.exit_code == 0
    assert summary.last.name.endswith(str(summary.steps))
    assert [row["step"] for row in rows(out, "eval")] == [summary.steps]
    assert rows(out)[-1]["step"] == summary.steps
    (heard,) = rows(out, "data")
    assert heard["utterances_main"] == 8
    said = capsys.readouterr().out
    assert "All data was heard once; more steps were planned (data.exhausted=stop)" in said
    assert f"Trained {summary.steps} steps" in said
    again = run(data, out, *ONCE, RESUME)
    assert again.steps == summary.steps


def test_a_run_with_as_many_steps_as_data_says_nothing_of_it(data, tmp_path, capsys):
    run(data, tmp_path / "run", "data.exhausted=stop", "training.max_steps=1")
    assert "All data" not in capsys.readouterr().out


def write_shards(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        members = []
        for one in utterances()[2 * number : 2 * number + 2]:
            soundfile.write(file := io.BytesIO(), one.waveform, 16_000, format="WAV")
            members += [(f"{one.id}.wav", file.getvalue()), (f"{one.id}.txt", one.text.encode())]
        write_tar(folder / f"{number:02d}.tar", members)


def test_a_run_outlives_shards_that_are_lost_and_tells_of_them(data, tmp_path, capsys):
    write_shards(tmp_path / "shards")
    patience = "{retries: 1, backoff: 0.01, timeout: 0.3}"
    with serving(tmp_path / "shards") as server:
        settings = (
            "data=webdataset",
            f"data.path='{server.url}/{{00..03}}.tar'",
            f"+data.train.main.options={patience}",
            "data.eval_path=null",
            "data.holdout=0",
        )
        server.faults = {"01.tar": Fault("refuse"), "03.tar": Fault("garbage")}
        summary = run(data, tmp_path / "run", *ONCE, *settings)
        assert dict(summary.rejects.reasons) == {"shard_unreachable": 1, "shard_corrupt": 1}
        assert rows(tmp_path / "run", "data")[0]["utterances_main"] == 4
        said = capsys.readouterr().out
        assert "1 shard_unreachable, such as main/" in said
