"""`tiny-audio quickstart`: the whole idea in minutes, on a laptop, without a network.

Speech is synthesised, the projector of the bundled pair learns on it, and the result is judged on
voices and sentences that it has never heard. It is the ordinary training loop with the settings
of conf/experiments/quickstart.yaml; nothing here is a shortcut of its own.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tiny_audio.compose import compose
from tiny_audio.data.synthetic import synthetic_utterances
from tiny_audio.errors import TinyAudioError
from tiny_audio.evaluate.run import evaluate
from tiny_audio.evaluate.tables import percent
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.model.checkpoint import resolve_model
from tiny_audio.text.scoring import get_rule
from tiny_audio.train.build import train
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

_NEXT = """
The curve with the cliff: {out}/loss.png   the report: {out}/report.md
Next:
  tiny-audio transcribe FILE --model {out}    your recording, your projector
  tiny-audio transcribe FILE                  the same, with the projector that ships
  tiny-audio train +experiments=quickstart model.projector.type=mosa"""

_REPORT = """\
# Quickstart

The projector of the bundled pair, trained on synthetic speech. The bundled pair teaches
how such a model learns; it is no product.

| figure | value |
|---|---|
| steps | {steps:,} |
| time | {time} |
| seed | {seed} |
| word error rate, unseen voices and sentences | {wer} |
| substitutions, deletions, insertions | {edits} words |

![loss and word error rate](loss.png)

| was said | was understood |
|---|---|
{pairs}
"""


def run(
    *, seed: int, out: Path | None, steps: int | None, try_file: Path | None, device: str
) -> int:
    """Train, test, try, and say what to type next; returns the exit status.

    Args:
        seed: of everything random: sentences, voices, weights, order.
        out: the run's folder; None: a new one under runs/.
        steps: updates; None: as the experiment says.
        try_file: a recording to transcribe at the end.
    """
    console = Console()
    if try_file is not None and not try_file.is_file():
        raise TinyAudioError(f"--try {try_file}: there is no such file")
    out = out or Path("runs", f"quickstart-{datetime.now():%Y%m%d-%H%M%S}")
    console.print(_INTRODUCTION, highlight=False)
    changes = [] if steps is None else [f"training.max_steps={steps}"]
    cfg = compose(["+experiments=quickstart", f"seed={seed}", f"device={device}", *changes])
    cfg.output_dir = str(out)  # not through Hydra's grammar, in which a comma has a meaning
    summary = train(cfg)
    if summary.interrupted is not None or summary.last is None:
        return summary.exit_code
    model = resolve_model(str(summary.last), device=device)
    test = evaluate(
        model,
        list(synthetic_utterances("test", seed + 1, count=UNSEEN)),
        rule=get_rule(cfg.evaluation.scoring),
        batch_seconds=cfg.evaluation.batch_seconds,
        max_utterances=cfg.evaluation.max_utterances,
        generation=cfg.evaluation.generation,
    )
    words, time = test.score.words, duration(summary.seconds)
    pairs = [(record.reference, record.hypothesis) for record in test.records[:SHOWN]]
    report = _REPORT.format(
        steps=summary.steps,
        time=time,
        seed=seed,
        wer=percent(words.rate),
        edits=f"{words.substitutions}, {words.deletions}, {words.insertions} of {words.reference}",
        pairs="\n".join(f"| {said} | {understood} |" for said, understood in pairs),
    )
    table = Table("was said", "was understood", title_justify="left")
    table.title = "On voices and sentences never heard in training"
    for pair in pairs:
        table.add_row(*pair)
    console.print("", table)
    console.print(
        f"Word error rate {percent(words.rate)} over {len(test.records)} utterances, "
        f"after {time} of training",
        highlight=False,
    )
    if try_file is not None:
        transcript = Recogniser(model).transcribe(try_file)
        tried = transcript.text if transcript.error is None else f"({transcript.error})"
        report += f"\n`{try_file}`: {tried}\n"
        console.print(f"{try_file}: {tried}", highlight=False, markup=False)
    (out / "report.md").write_text(report, encoding="utf-8")
    console.print(_NEXT.format(out=out), highlight=False, markup=False)
    return summary.exit_code
