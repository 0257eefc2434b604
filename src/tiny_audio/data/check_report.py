"""A checked set on the terminal, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tiny_audio.data.check_plot import rebin

_BARS, _BAR_WIDTH = 12, 40
_SHOWN = 8  # of lists that the JSON file has in full


def print_check(report: dict[str, Any], console: Console) -> None:
    """Print a report of `check_set`."""
    console.print(f"[bold]{escape(str(report['data']))}[/bold]", highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for name, value in _rows(report):
        table.add_row(name, escape(value))
    console.print(table, highlight=False)
    _bars(console, report["seconds"], "duration (s)")
    _bars(console, report["characters_per_second"], "characters a second")
    _examples(console, report)
    found = report["findings"]
    console.print(f"\n[bold]{'to look at' if found else 'nothing stands out'}[/bold]")
    for one in found:
        console.print(f"- {one['kind']}: {one['message']}", markup=False, highlight=False)


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    rejects, seconds = report["rejects"], report["seconds"]
    rejected = sum(rejects["reasons"].values())
    yield "read", f"{rejects['seen']:,} records, {report['utterances']:,} usable"
    yield (
        "audio",
        (
            f"{report['hours']:.2f} h; {seconds['min']:.1f} to {seconds['max']:.1f} s, "
            f"mean {seconds['mean']:.1f}, median {seconds['median']:.1f}"
        ),
    )
    if len(report["sources"]) > 1:
        for name, part in report["sources"].items():
            yield f"  {name}", f"{part['utterances']:,} utterances, {part['hours']:.2f} h"
    if rejected:
        yield "rejected", ", ".join(f"{n:,} {reason}" for reason, n in rejects["reasons"].items())
    words = report["vocabulary"]
    yield (
        "words",
        (
            f"{words['running_words']:,}, {words['different_words']:,} different, "
            f"{words['words_seen_once']:,} of them once"
        ),
    )
    odd = [f"{_shown(c)} {n:,}" for c, n in list(words["odd_characters"].items())[: 2 * _SHOWN]]
    yield "characters", f"{len(words['characters'])} different; odd: {', '.join(odd) or 'none'}"
    yield "labels", _labels(report["labels"])
    yield "notes removed", _listed(report["markers"]["removed_by_cleaning"])
    yield (
        "notes left",
        _listed({m["marker"]: m["utterances"] for m in report["markers"]["left_in_labels"]}),
    )
    repeats = {k.replace("_", " "): v["utterances"] for k, v in report["repeats"].items()}
    yield "repeats", ", ".join(f"{n:,} {kind}" for kind, n in repeats.items())
    for one in report["overlap"]:
        heard, of = one["recordings_in_training"], one["recordings"]
        texts, of_texts = one["long_texts_in_training"], one["long_texts"]
        yield "overlap", f"{one['set']}: {heard:,} of {of:,} recordings,"
        yield "", f"{texts:,} of {of_texts:,} texts of 5 words or more"
    yield "tokens", _tokens(report["tokens"])
    voices = report["speakers"]
    if voices is not None:
        most = max(voices["most_utterances"].values()) / voices["utterances_with_speaker"]
        yield "speakers", f"{voices['speakers']:,}; the most frequent has {most:.0%} of them"
    else:
        yield "speakers", "not named"


def _labels(labels: dict[str, Any]) -> str:
    known = labels["labels"]
    parts = [f"{n / known:.0%} {case}" for case, n in labels["case"].items()]
    parts += [f"{labels['punctuated'] / known:.0%} punctuated"]
    parts += [f"{labels['with_digits'] / known:.0%} with digits"]
    parts += [f"{name}: case={case}" for name, case in labels["case_of"].items() if case != "keep"]
    return ", ".join(parts)


def _tokens(tokens: dict[str, Any]) -> str:
    context = tokens["context"]
    room = f"the decoder's context is {context:,}" if context else "context not known"
    return (
        f"{tokens['model']}: {tokens['audio_tokens_per_second']:.1f} audio and "
        f"{tokens['label_tokens_per_second']:.1f} label tokens a second; the longest utterance "
        f"takes {tokens['longest_sequence']:,} with the prompt, {room}"
    )


def _listed(counts: dict[str, int]) -> str:
    shown = [f"{mark} {n:,}" for mark, n in list(counts.items())[:_SHOWN]]
    more = [f"{len(counts) - _SHOWN:,} more"] if len(counts) > _SHOWN else []
    return ", ".join([*shown, *more]) or "none"


def _shown(character: str) -> str:
    return character if character.isprintable() else f"U+{ord(character):04X}"


def _bars(console: Console, histogram: dict[str, Any], title: str) -> None:
    edges, counts = rebin(histogram, _BARS)
    console.print(f"\n[bold]{title}[/bold]")
    digits = next((d for d in (0, 1) if all(abs(e - round(e, d)) < 1e-6 for e in edges)), 2)
    wide = len(f"{edges[-1]:.{digits}f}")
    for low, high, n in zip(edges, edges[1:], counts, strict=False):
        bar = "█" * round(_BAR_WIDTH * n / max(counts)) or ("▏" if n else "")
        label = f"{low:>{wide}.{digits}f} to {high:>{wide}.{digits}f}"
        console.print(f"{label}  {bar:<{_BAR_WIDTH}} {n:,}", markup=False, highlight=False)


def _examples(console: Console, report: dict[str, Any]) -> None:
    """One line for each of a few examples of what may be wrong; the JSON file has more."""
    lines: list[tuple[str, str]] = []
    for reason, found in report["rejects"]["examples"].items():
        lines += [(f"rejected, {reason}", one) for one in found[:2]]
    for kind, part in report["repeats"].items():
        if kind != "same_text_other_audio":
            found = part["examples"][:2]
            lines += [(kind.replace("_", " "), f"{e['id']} = {e['first']}") for e in found]
    for one in report["overlap"]:
        for kind, examples in one["examples"].items():
            found = [
                f"{e['training']} = {Path(one['set']).name}: {e['test']}" for e in examples[:2]
            ]
            lines += [(f"overlap, {kind}", line) for line in found]
    for mark in report["markers"]["left_in_labels"][:_SHOWN]:
        example = mark["examples"][0]
        lines.append((f"{mark['kind']} {mark['marker']}", f"{example['id']}: {example['text']}"))
    rates = report["characters_per_second"]["extremes"]
    for kind in ("lowest", "highest"):
        for one in rates[kind][:2]:
            line = f"{one['value']:.1f} a second, {one['id']}: {one['text']}"
            lines.append((f"{kind} character rate", line))
    console.print("\n[bold]examples[/bold]")
    for name, line in lines:
        text = f"- {name}: {line}"
        if len(text) > console.width:
            text = text[: console.width - 1] + "…"
        console.print(text, markup=False, highlight=False)
