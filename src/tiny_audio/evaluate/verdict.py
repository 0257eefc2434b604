"""A comparison in words and tables: `tiny-audio analysis compare`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tiny_audio.errors import DataError
from tiny_audio.evaluate.analysis import MARKS, marked
from tiny_audio.evaluate.breakdown import UNKNOWN
from tiny_audio.evaluate.compare import LEVEL, Comparison, compare
from tiny_audio.evaluate.records import Evaluation
from tiny_audio.evaluate.report import percent
from tiny_audio.evaluate.sections import Section, show
from tiny_audio.evaluate.significance import FEW, holm
from tiny_audio.evaluate.systems import load_systems

SPEAKERS = 20  # that are listed, those with the most words first


def compare_command(
    paths: Sequence[Path],
    *,
    top: int,
    resamples: int,
    seed: int,
    scoring: str | None,
    markdown: bool,
) -> list[Comparison]:
    """`analysis compare`: every system after the first against the first.

    Raises DataError where there is only one, and what `compare` raises.
    """
    systems = load_systems(paths, scoring)
    if len(systems) < 2:
        raise DataError(f"{paths[0]}: holds one model's results; name a second results file.")
    first, *others = systems
    found = [compare(first, other, resamples=resamples, seed=seed) for other in others]
    adjusted = holm([one.bootstrap.p for one in found])
    show([overview(found, adjusted)], markdown=markdown)
    for one in found:
        print(verdict(one) + "\n")
        show(detail_sections(one, top), markdown=markdown)
    return found


def verdict(comparison: Comparison) -> str:
    """Which is better, by how much and how surely, in a few sentences."""
    a, b = comparison.names
    wer = {a: comparison.a.score.wer, b: comparison.b.score.wer}
    drawn, matched = comparison.bootstrap, comparison.matched
    better = comparison.better
    low, high = drawn.interval
    figures = (
        f"difference {points(drawn.difference)} points of WER ({b} less {a}; 95 % interval "
        f"{points(low)} to {points(high)}), p = {p_value(drawn.p)} by paired bootstrap over "
        f"{drawn.units} {_plural(comparison.unit)}, p = {p_value(matched.p)} by matched pairs "
        f"over {matched.segments} segments"
    )
    if better is None:
        said = f"No difference: both have a word error rate of {percent(wer[a])}"
    else:
        worse = a if better == b else b
        rates = f"{percent(wer[better])} against {percent(wer[worse])}"
        if comparison.significant:
            said = f"{better} is better: WER {rates}"
        else:
            said = (
                f"No difference is shown: {better} has the lower WER, {rates}, but it may be luck"
            )
    warning = ""
    if drawn.units < FEW:
        warning = f" With only {drawn.units} {_plural(comparison.unit)} p is not to be trusted."
    return f"{said}; {figures}.{warning}{left_out(comparison)}"


def left_out(comparison: Comparison) -> str:
    """What was not compared, as a sentence; empty where everything was."""
    if not comparison.left_out:
        return ""
    said = ", ".join(f"{n} {reason}" for reason, n in comparison.left_out.items())
    return f" Compared on {len(comparison.a.records)} common utterances; left out: {said}."


def overview(found: Sequence[Comparison], adjusted: Sequence[float]) -> Section:
    """One row a system: its rate, its difference to the first and both tests."""
    cells = []
    for one, p in zip(found, adjusted, strict=True):
        low, high = one.bootstrap.interval
        cells.append(
            (
                one.names[1],
                str(len(one.a.records)),
                percent(one.a.score.wer),
                percent(one.b.score.wer),
                points(one.bootstrap.difference),
                f"{points(low)} {points(high)}",
                p_value(one.bootstrap.p),
                *([p_value(p)] if len(found) > 1 else []),
                p_value(one.matched.p),
            )
        )
    first = found[0].names[0]
    columns = ["system", "utts", f"WER, {first}", "WER", "points", "95 % interval", "p"]
    columns += ["p, Holm"] if len(found) > 1 else []
    note = f"scoring {found[0].a.score.rule}; negative points: fewer errors than {first}"
    title = f"Against {first}"
    return Section(title, [*columns, "p, MAPSSWE"], cells, note)


def detail_sections(comparison: Comparison, top: int) -> Iterator[Section]:
    """Who wins where, and the utterances that changed most."""
    yield wins(comparison)
    yield parts_section("By set", comparison, comparison.parts("set"))
    yield parts_section("By duration", comparison, comparison.parts("duration"))
    speakers = comparison.parts("speaker")
    if speakers.keys() - {UNKNOWN}:
        most = sorted(speakers, key=lambda name: -speakers[name][0].score.words.reference)
        listed = {name: speakers[name] for name in most[:SPEAKERS]}
        yield parts_section("By speaker", comparison, listed)
    yield changed_section(comparison, top)


def wins(comparison: Comparison) -> Section:
    """On how many utterances each is the better one."""
    a, b = comparison.names
    differences = comparison.differences
    counts = {
        f"{a} has fewer errors": sum(d > 0 for d in differences),
        f"{b} has fewer errors": sum(d < 0 for d in differences),
        "as many": sum(d == 0 for d in differences),
    }
    total = len(differences)
    cells = [(name, str(n), percent(n / total)) for name, n in counts.items()]
    return Section("Utterances", ("outcome", "utterances", "share"), cells)


def parts_section(
    title: str, comparison: Comparison, parts: Mapping[str, tuple[Evaluation, Evaluation]]
) -> Section:
    """Both word error rates in each part, and whose is lower."""
    cells = []
    for name, (a, b) in parts.items():
        x, y = a.score.words, b.score.words
        winner = comparison.names[y.errors < x.errors] if x.errors != y.errors else "–"
        gap = points(y.rate - x.rate) if x.rate is not None and y.rate is not None else "–"
        row = (str(len(a.records)), str(x.reference), percent(x.rate), percent(y.rate), gap)
        cells.append((name, *row, winner))
    columns = ("part", "utts", "words", *comparison.names, "points", "fewer errors")
    return Section(title, columns, cells, text=(0, 6))


def changed_section(comparison: Comparison, top: int) -> Section:
    """The utterances whose word errors differ most, with both texts."""
    cells = []
    differences = comparison.differences
    for place in comparison.changed()[:top]:
        texts = (
            f"{name}: {marked(evaluation.score.utterances[place].alignment)}"
            for name, evaluation in zip(comparison.names, (comparison.a, comparison.b), strict=True)
        )
        cells.append((comparison.a.records[place].id, f"{differences[place]:+d}", "\n".join(texts)))
    columns = ("id", "errors", "texts")
    note = f"errors: of {comparison.names[1]} less those of {comparison.names[0]}. {MARKS}"
    return Section("Most changed", columns, cells, note, text=(0, 2))


def points(rate: float) -> str:
    """A difference of two rates, in percentage points."""
    return f"{100 * rate:+.2f}"


def p_value(p: float) -> str:
    """A p-value to two figures, as small as it is worth saying."""
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.4f}" if p < LEVEL else f"{p:.2f}"


def _plural(unit: str) -> str:
    return " or ".join(f"{word}s" for word in unit.split(" or "))
