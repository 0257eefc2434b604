"""Comparisons are made under one rule, on common utterances, and name the better system."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluate.helpers import failure, records, write
from tiny_audio.cli import run
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.comparison import compare, conclusion
from tiny_audio.evaluate.results import Evaluation, Record, load_systems


def systems(tmp_path: Path, a: list[Record], b: list[Record]) -> dict[str, Evaluation]:
    return load_systems([write(tmp_path / "a", a), write(tmp_path / "b", b)], None)


def test_the_better_is_named_and_turning_the_pair_turns_the_sign(tmp_path: Path) -> None:
    both = systems(tmp_path, records(0.1, seed=1), records(0.3, seed=2))
    found, turned = compare(both), compare(dict(reversed(both.items())))
    assert found.better == turned.better == "a"
    assert conclusion(found).startswith("a is better: WER")
    assert turned.bootstrap.difference == -found.bootstrap.difference
    assert found.bootstrap.p < 0.01
    errors = [e.score.words.errors for e in (found.a, found.b)]
    assert sum(found.differences) == errors[1] - errors[0]


def test_a_system_does_not_differ_from_itself(tmp_path: Path) -> None:
    """Nor are two utterances one because their ids are, in two sets."""
    a = [*records(0.1, number=9), *(replace(r, set="other") for r in records(0.5, number=9))]
    found = compare(systems(tmp_path, a, a[::-1]))
    assert len(found.a.records) == 18
    assert (found.better, found.bootstrap.p, set(found.differences)) == (None, 1.0, {0})
    assert conclusion(found).startswith("No difference")


def test_parts_add_up_to_the_whole_and_speakers_are_drawn(tmp_path: Path) -> None:
    a, b = records(0.1, seed=1, speakers=5), records(0.2, seed=2, speakers=5)
    found = compare(systems(tmp_path, a, b[::-1]))  # the order of a file does not matter
    for kind in ("set", "duration", "speaker"):
        parts = found.divide(kind).values()
        for place, whole in enumerate((found.a, found.b)):
            assert sum(p[place].score.words.errors for p in parts) == whole.score.words.errors
        for left, right in parts:
            assert [r.id for r in left.records] == [r.id for r in right.records]
    assert (found.unit, found.bootstrap.units) == ("speaker", 5)
    assert "not to be trusted" in conclusion(found)


def test_what_is_not_common_is_left_out_and_counted(tmp_path: Path) -> None:
    a, b = records(0.1, seed=1), records(0.2, seed=2)
    a[0] = failure("u0")
    a[20], b[20] = failure("u20"), failure("u20")
    b[3] = replace(b[3], reference="another text")
    del a[1:3], b[10]
    found = compare(systems(tmp_path, a, b))
    assert len(found.a.records) == len(found.b.records) == 54
    assert found.left_out == {
        "failed in a": 1, "missing in a": 2, "missing in b": 1, "with different references": 1,
    }  # fmt: skip
    assert "54 common utterances" in conclusion(found)
    others = load_systems([write(tmp_path / "c", [replace(r, id=f"x{r.id}") for r in a])], None)
    with pytest.raises(DataError, match="share no utterance"):
        compare({"a": found.a, **others})


def test_two_rules_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    rules = {"a": "basic/1", "b": "whisper-en/1"}
    paths = [write(tmp_path / name, records(0.1), rule) for name, rule in rules.items()]
    with pytest.raises(ConfigError, match="--scoring"):
        load_systems(paths, None)
    found = load_systems(paths, "whisper-en")
    assert {one.rule for one in found.values()} == {"whisper-en/1"}
    basic = load_systems(paths[:1], None)
    assert basic["a"].rule == "basic/1"
    with pytest.raises(ConfigError, match="basic/1"):
        compare({**found, **basic})


def test_models_in_one_file_are_several_systems_of_different_names(tmp_path: Path) -> None:
    both = [replace(r, model="m") for r in records(0.1)]
    both += [replace(r, model="n") for r in records(0.2)]
    path = write(tmp_path / "a", both)
    found = load_systems([path], None)
    assert list(found) == ["m", "n"]
    assert compare(found).left_out == {}
    assert list(load_systems([path, path], None)) == ["a/m", "a/n", "a/m-2", "a/n-2"]


@pytest.mark.parametrize("name", ["summary", "high-wer", "errors", "compare"])
def test_every_command_in_both_forms(tmp_path, capsys, name):
    paths = [write(tmp_path / f"s{seed}", records(0.2 * seed, seed=seed)) for seed in (1, 2)]
    command = ["analysis", name, *map(str, paths if name == "compare" else paths[1:])]
    assert run(command) == 0
    assert capsys.readouterr().out
    assert run([*command, "--markdown", "--scoring", "basic"]) == 0
    shown = capsys.readouterr().out
    assert sum(line.startswith("|") for line in shown.splitlines()) >= 2
    assert name != "compare" or "s1 is better" in shown


def test_high_wer_lists_what_is_at_or_above(tmp_path, capsys):
    texts = {"half": ("one two", "one too"), "quarter": ("a b c d", "a b c x")}
    texts["silence"] = ("", "words | here")
    lines = [Record(name, "s", *pair, 1.0, 0.1) for name, pair in texts.items()]
    path = write(tmp_path / "a", lines)
    assert run(["analysis", "high-wer", str(path), "--markdown"]) == 0
    shown = capsys.readouterr().out
    assert "| half | 50.00% | 1/2 |" in shown
    assert shown.index("silence") < shown.index("half")
    assert "quarter" not in shown
    assert "2 of 3 utterances" in shown
    assert "3 of 4 errors" in shown


def test_mistakes_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "a", records(0.1))
    for command, path in (("compare", one), ("errors", tmp_path), ("summary", one / "none.jsonl")):
        assert run(["analysis", command, str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
