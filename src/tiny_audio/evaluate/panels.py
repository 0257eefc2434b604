"""The report's tables and plots, as HTML; every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from tiny_audio.evaluate.bootstrap import bootstrap
from tiny_audio.evaluate.breakdown import UNKNOWN, parts
from tiny_audio.evaluate.calibration import calibration
from tiny_audio.evaluate.compare import Comparison
from tiny_audio.evaluate.confusions import Tally, confusions
from tiny_audio.evaluate.homophones import forgive
from tiny_audio.evaluate.plots import Point, Series, bars, reliability
from tiny_audio.evaluate.records import Evaluation
from tiny_audio.evaluate.report import COLUMNS, LEGEND, percent, rows
from tiny_audio.evaluate.sections import Section
from tiny_audio.evaluate.verdict import SPEAKERS, parts_section, verdict, wins

TOP = 12  # confusions of a kind that are listed
STEPS = 10  # bars of the histogram up to 100 %


def summary_panel(names: Sequence[str], evaluations: Sequence[Evaluation]) -> str:
    """A card for each system, then the table by set."""
    cards = "".join(_card(*pair) for pair in enumerate(zip(names, evaluations, strict=True)))
    tables = "".join(
        section_table(Section(f"{name}: by set", COLUMNS, rows(evaluation), LEGEND))
        for name, evaluation in zip(names, evaluations, strict=True)
    )
    return f'<div class="cards">{cards}</div>{tables}'


def comparison_panel(comparison: Comparison) -> str:
    """Which is better, in a sentence; then by set, duration and speaker."""
    sections = [wins(comparison)]
    for title, kind in (("By set", "set"), ("By duration", "duration"), ("By speaker", "speaker")):
        found = comparison.parts(kind)
        if found.keys() - {UNKNOWN}:
            most = sorted(found, key=lambda name: -found[name][0].score.words.reference)
            listed = found if len(found) <= SPEAKERS else {n: found[n] for n in most[:SPEAKERS]}
            sections.append(parts_section(title, comparison, listed))
    tables = "".join(map(section_table, sections))
    return (
        '<section aria-labelledby="compared"><h2 id="compared">Comparison</h2>'
        f'<p class="verdict">{escape(verdict(comparison))}</p><div class="columns">{tables}</div>'
        "</section>"
    )


def plot_panel(names: Sequence[str], evaluations: Sequence[Evaluation]) -> str:
    """Error rate by duration and by noise, its spread, and whether confidence means anything."""
    both = list(zip(names, evaluations, strict=True))
    figures = [_by("WER by duration", "seconds of audio", "duration", both)]
    if any(r.snr is not None for e in evaluations for r in e.scored):
        figures.append(_by("WER by signal-to-noise ratio", "estimated SNR", "snr", both))
    figures.append(_histogram(both))
    curves = []
    for name, evaluation in both:
        bins = calibration(evaluation)["bins"]
        points = [
            Point(b["confidence"], b["correct"], b["utterances"]) for b in bins if b["utterances"]
        ]
        curves.append((name, points))
    if any(points for _, points in curves):
        title = "Reliability: utterances wholly right, by confidence"
        figures.append(reliability(title, "mean confidence of a bin", curves))
    return f'<div class="plots">{"".join(figures)}</div>'


def confusion_panel(names: Sequence[str], evaluations: Sequence[Evaluation]) -> str:
    """The most frequent errors of each system, as buttons that filter the list of utterances."""
    groups = []
    for s, (name, evaluation) in enumerate(zip(names, evaluations, strict=True)):
        found, forgiven = confusions(evaluation), forgive(evaluation)
        lists = [
            _buttons(s, "Substituted", _pairs(found.substitutions)),
            _buttons(s, "Deleted", ((word, "", t.count) for word, t in found.deletions.items())),
            _buttons(s, "Inserted", (("", word, t.count) for word, t in found.insertions.items())),
            _buttons(s, "Homophones", ((p[0], p[1], n) for p, n in forgiven.pairs.most_common())),
        ]
        said = (
            f"With homophones forgiven the WER is {percent(forgiven.wer)} instead of "
            f"{percent(forgiven.wer_before)}."
        )
        heading = f"<h3>{escape(name)}</h3>" if len(names) > 1 else ""
        groups.append(f'{heading}<div class="columns">{"".join(lists)}</div><p>{said}</p>')
    return "".join(groups)


def section_table(section: Section) -> str:
    """A table that may be scrolled sideways, with its heading and note."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in section.columns)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in section.rows
    )
    title = escape(section.title)
    note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
    return (
        f'<div class="block"><h3>{title}</h3><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{title}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f"</div>{note}</div>"
    )


def _card(place: int, pair: tuple[str, Evaluation]) -> str:
    name, evaluation = pair
    score = evaluation.score
    drawn = bootstrap(evaluation)
    interval = drawn.intervals["wer"]
    between = "" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"
    facts = {
        "words": f"{score.reference_words:,}",
        "substituted": percent(_share(score.substitutions, score.reference_words)),
        "deleted": percent(_share(score.deletions, score.reference_words)),
        "inserted": percent(_share(score.insertions, score.reference_words)),
        "CER": percent(score.cer),
        "utterances with errors": percent(score.sentence_error_rate),
        "audio": f"{evaluation.audio_seconds / 60:.1f} min",
        "times real time": "–" if evaluation.rtfx is None else f"{evaluation.rtfx:.1f}",
        "failed": str(evaluation.failures.total()),
    }
    listed = "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in facts.items())
    return (
        f'<div class="card"><h3><i class="swatch s{place}"></i>{escape(name)}</h3>'
        f'<p class="big">{percent(score.wer)} <small>WER</small></p>'
        f'<p class="note">95 % interval {between}, drawn by {drawn.unit} ({drawn.units})</p>'
        f"<dl>{listed}</dl></div>"
    )


def _by(title: str, x_name: str, kind: str, both: Sequence[tuple[str, Evaluation]]) -> str:
    divided = [(name, parts(evaluation, kind)) for name, evaluation in both]
    labels = list(dict.fromkeys(label for _, found in divided for label in found))
    series = []
    for name, found in divided:
        values = [found[label].score.wer if label in found else None for label in labels]
        intervals = [
            bootstrap(found[label]).intervals["wer"] if label in found else None for label in labels
        ]
        series.append(Series(name, values, intervals))
    return bars(title, x_name, labels, series)


def _histogram(both: Sequence[tuple[str, Evaluation]]) -> str:
    labels = ["0"] + [f"≤ {100 * step // STEPS}" for step in range(1, STEPS + 1)] + ["> 100"]
    series = []
    for name, evaluation in both:
        counts = [0] * len(labels)
        rates = [one.wer for one in evaluation.score.utterances if one.wer is not None]
        for rate in rates:
            counts[min(-int(-rate * STEPS // 1), STEPS + 1)] += 1
        series.append(Series(name, [_share(count, len(rates)) for count in counts]))
    return bars("Utterances by their WER", "WER of the utterance, %", labels, series)


def _pairs(tallies: Mapping[tuple[str, str], Tally]) -> Iterable[tuple[str, str, int]]:
    return ((said, heard, tally.count) for (said, heard), tally in tallies.items())


def _buttons(system: int, title: str, items: Iterable[tuple[str, str, int]]) -> str:
    found = list(items)
    if not found:
        return ""
    buttons = "".join(
        f'<li><button type="button" class="pair" data-system="{system}" '
        f'data-said="{escape(said)}" data-heard="{escape(heard)}">{_shown(said, heard)} '
        f'<span class="times">×{count}</span></button></li>'
        for said, heard, count in found[:TOP]
    )
    return (
        f'<div class="block"><h4>{title}</h4><ul class="pairs">{buttons}</ul></div>'
        if found
        else ""
    )


def _shown(said: str, heard: str) -> str:
    return escape(f"{said} → {heard}" if said and heard else said or heard)


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
