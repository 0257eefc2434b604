"""A results file holds everything that the figures need."""

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.evaluate.helpers import evaluation, random_evaluation, write
from tiny_audio.errors import DataError
from tiny_audio.evaluate.results import Evaluation, Record, read_records
from tiny_audio.evaluate.run import rescore_command
from tiny_audio.evaluate.statistics import BREAKDOWNS, RATES
from tiny_audio.evaluate.tables import COLUMNS, figures_section, summary
from tiny_audio.text.scoring import get_rule

RECORDS = (
    Record("a", "books", "The cat sat.", "the cat sat", 2.0, 0.5, -0.1, True, "ann"),
    Record("b", "news", "a dog", "the dog barked", 3.0, 0.5, None, False, "bob"),
    Record("c", "books", "grüße", "", 1.0, 0.25, None, True, None, "too_short"),
    Record("d", "books", "yes\n| no", "yes", 1.0, 0.25, -2.0, True, "ann"),
)
BASIC = Evaluation.of(RECORDS, get_rule("basic"))


def test_a_results_file_gives_back_its_records(tmp_path: Path) -> None:
    """Columns of other versions are passed over."""
    path = write(tmp_path / "run", list(RECORDS)) / "results.jsonl"
    assert tuple(read_records(path)) == RECORDS
    path.write_text(json.dumps({**json.loads(RECORDS[0].to_json()), "snr": 12.5}) + "\n")
    assert tuple(read_records(path)) == RECORDS[:1]


def test_table_and_markdown_have_a_row_a_source_and_one_for_all() -> None:
    section = figures_section(BASIC, "title")
    assert [row[0] for row in section.rows] == ["books", "news", "all"]
    assert section.table().row_count == 3
    lines = section.markdown().splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "basic/1; failed: 1 too_short" in lines[-2]


def test_every_column_is_seen_in_eighty_characters() -> None:
    records = [replace(r, source=f"a set [with] a long name/{r.source}") for r in RECORDS]
    console = Console(width=80, file=io.StringIO(), markup=False)
    section = figures_section(Evaluation.of(records * 400, get_rule("basic")), "model [x] on data")
    console.print(section.table())
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "model [x] on data" in shown
    for column, cell in zip(COLUMNS, section.rows[-1][1:], strict=True):
        assert column in shown
        assert cell in shown


@pytest.mark.parametrize("text", ["not json", "[1]", '{"id": "a"}', "\ud800"])
def test_other_files_are_refused_with_the_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(text + "\n", encoding="utf-8", errors="surrogatepass")
    with pytest.raises(DataError, match="results"):
        list(read_records(path))


def test_the_summary_is_json_and_has_every_figure() -> None:
    found = json.loads(json.dumps(summary(random_evaluation(60)), allow_nan=False))
    assert {"set", *found["breakdown"]} == set(BREAKDOWNS)
    for parts in (found["sets"], *found["breakdown"].values()):
        assert sum(part["utterances"] for part in parts.values()) == 60
    assert set(found["sets"]) == {"u", "v", "w"}
    assert set(found["intervals"]) == set(RATES)
    for name, (low, high) in found["intervals"].items():
        assert low - 1e-9 <= found[name] <= high + 1e-9
    assert (found["scoring"], found["primary"]) == ("basic/1", "cer")


def test_a_set_without_a_reference_word_has_insertions_and_no_rates() -> None:
    found = summary(evaluation([("", "a b"), ("[noise]", "")]))
    assert (found["wer"], found["cer"], found["insertion_rate"]) == (None, None, None)
    assert found["intervals"]["wer"] is None
    assert found["empty_references"] == found["insertions"] == 2
    assert found["sentence_error_rate"] == 0.5
    assert found["hallucination"]["nonspeech"]["insertions_per_minute"] == 20.0
    empty = evaluation([])
    assert (empty.rtfx, summary(empty)["wer"]) == (None, None)
    assert figures_section(empty, "").rows[0][0] == "all"


def test_rescoring_needs_no_model_and_writes_a_summary(tmp_path, capsys):
    whole = random_evaluation(200)
    file = write(tmp_path / "run", list(whole.records)) / "results.jsonl"
    (again,) = rescore_command(tmp_path / "run", scoring="basic", out=tmp_path / "a").values()
    assert again == whole
    start = time.process_time()
    rescore_command(file, scoring="whisper-en", out=tmp_path / "b")
    assert time.process_time() - start < 1.0  # thousands in seconds
    rules = [json.loads((tmp_path / n / "summary.json").read_text())["scoring"] for n in "ab"]
    assert rules == ["basic/1", "whisper-en/1"]
    assert "whisper-en/1" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        rescore_command(tmp_path / "nothing.jsonl", scoring="basic", out=None)
