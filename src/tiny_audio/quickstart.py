"""`tiny-audio quickstart`: the whole idea in minutes, on a laptop, without a network.

Speech is synthesised, the projector of the bundled pair learns on it, and the result is judged on
voices and sentences that it has never heard. It is the ordinary training loop with the settings
of conf/experiments/quickstart.yaml; nothing here is a shortcut of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tiny_audio.compose import compose
from tiny_audio.config import Config
from tiny_audio.data.records import Utterance
from tiny_audio.data.synthetic import synthetic_utterances
from tiny_audio.errors import TinyAudioError
from tiny_audio.evaluate.results import Evaluation
from tiny_audio.evaluate.run import evaluate
from tiny_audio.evaluate.tables import percent
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.model.checkpoint import resolve_model
from tiny_audio.text.scoring import get_rule
from tiny_audio.train.build import RunSummary, train
from tiny_audio.train.metrics import duration

UNSEEN = 200  # utterances in the final test
SHOWN = 6  # of them, in the report

_INTRODUCTION = """\
A frozen encoder hears, a frozen language model writes, and between them is
a projector that knows nothing yet. It learns now, from sentences that espeak-ng
speaks. Watch three things:
  loss   falls off a cliff: the moment when the language model starts to hear
  WER    word error rate on unseen voices and sentences; 100% is gibberish
  pairs  what was said and what was understood, at each evaluation
"""


@dataclass(frozen=True)
class Outcome:
    """What a quickstart ended with."""

    run: RunSummary
    test: Evaluation | None  # None where training was interrupted
    tried: str | None  # transcript of the user's own recording


def run(
    *, seed: int, out: Path | None, steps: int | None, try_file: Path | None, device: str = "auto"
) -> Outcome:
    """Train, test, try, and say what to type next.

    Args:
        seed: of everything random: sentences, voices, weights, order.
        out: the run's folder; None: a new one under runs/.
        steps: updates; None: as the experiment says.
        try_file: a recording to transcribe at the end.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        TinyAudioError: espeak-ng is not installed, or the folder or recording cannot be used.
    """
    console = Console()
    if try_file is not None and not try_file.is_file():
        raise TinyAudioError(f"--try {try_file}: there is no such file")
    out = out or Path("runs", f"quickstart-{datetime.now():%Y%m%d-%H%M%S}")
    console.print(_INTRODUCTION, highlight=False)
    cfg = _settings(seed, out, steps, device)
    summary = train(cfg)
    if summary.interrupted is not None or summary.last is None:
        return Outcome(summary, None, None)
    model = resolve_model(str(summary.last), device=device)
    test = evaluate(
        model,
        _unseen(seed + 1),
        rule=get_rule(cfg.evaluation.scoring),
        batch_seconds=cfg.evaluation.batch_seconds,
        max_utterances=cfg.evaluation.max_utterances,
        generation=cfg.evaluation.generation,
    )
    tried = None
    if try_file is not None:
        transcript = Recogniser(model).transcribe(try_file)
        tried = transcript.text if transcript.error is None else f"({transcript.error})"
    outcome = Outcome(summary, test, tried)
    (out / "report.md").write_text(_report(outcome, seed, try_file), encoding="utf-8")
    _say(console, outcome, out, try_file)
    return outcome


def _settings(seed: int, out: Path, steps: int | None, device: str) -> Config:
    changes = [f"seed={seed}", f"device={device}"]
    if steps is not None:
        changes.append(f"training.max_steps={steps}")
    config = compose(["+experiments=quickstart", *changes])
    config.output_dir = str(out)  # not through Hydra's grammar, in which a comma has a meaning
    return config


def _unseen(seed: int) -> list[Utterance]:
    """Sentences and voices of the test split, other ones than those shown in training."""
    return list(synthetic_utterances("test", seed, count=UNSEEN))


def _say(console: Console, outcome: Outcome, out: Path, try_file: Path | None) -> None:
    """The last screen: figures, examples, what to type next."""
    assert outcome.test is not None
    table = Table(title="On voices and sentences never heard in training", title_justify="left")
    table.add_column("was said")
    table.add_column("was understood")
    for record in outcome.test.records[:SHOWN]:
        table.add_row(record.reference, record.hypothesis)
    console.print()
    console.print(table)
    words = outcome.test.score.words
    console.print(
        f"Word error rate {percent(words.rate)} over {len(outcome.test.records)} utterances, "
        f"after {duration(outcome.run.seconds)} of training",
        highlight=False,
    )
    if outcome.tried is not None:
        console.print(f"{try_file}: {outcome.tried}", highlight=False, markup=False)
    console.print(
        f"\nThe curve with the cliff: {out / 'loss.png'}   the report: {out / 'report.md'}\n"
        "Next:\n"
        f"  tiny-audio transcribe FILE --model {out}    your recording, your projector\n"
        "  tiny-audio transcribe FILE                  the same, with the projector that ships\n"
        "  tiny-audio train +experiments=quickstart model.projector.type=mosa",
        highlight=False,
        markup=False,
    )


def _report(outcome: Outcome, seed: int, try_file: Path | None) -> str:
    """report.md: the figures and examples of the run."""
    assert outcome.test is not None
    test, words = outcome.test, outcome.test.score.words
    rtfx = f"{test.rtfx:.0f} times real time" if test.rtfx else "not measured"
    lines = [
        "# Quickstart",
        "",
        "The projector of the bundled pair, trained on synthetic speech. The bundled pair teaches",
        "how such a model learns; it is no product.",
        "",
        "| figure | value |",
        "|---|---|",
        f"| steps | {outcome.run.steps:,} |",
        f"| time | {duration(outcome.run.seconds)} |",
        f"| seed | {seed} |",
        f"| word error rate, unseen voices and sentences | {percent(words.rate)} |",
        f"| substitutions, deletions, insertions | {words.substitutions}, {words.deletions}, "
        f"{words.insertions} of {words.reference} words |",
        f"| speed of transcription | {rtfx} |",
        "",
        "![loss and word error rate](loss.png)",
        "",
        "| was said | was understood |",
        "|---|---|",
    ]
    lines += [f"| {r.reference} | {r.hypothesis} |" for r in test.records[:SHOWN]]
    if outcome.tried is not None:
        lines += ["", f"`{try_file}`: {outcome.tried}"]
    return "\n".join(lines) + "\n"
