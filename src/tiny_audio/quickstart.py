"""`tiny-audio quickstart`: the whole idea in minutes, on a laptop, without a network.

Speech is synthesised, the projector of the bundled pair learns on it, and the result is judged on
voices and sentences that it has never heard. It is the ordinary training loop with the settings
of conf/experiments/quickstart.yaml; nothing here is a shortcut of its own.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tiny_audio.compose import compose
from tiny_audio.data.synthetic import synthetic_utterances
from tiny_audio.errors import TinyAudioError
from tiny_audio.evaluate.run import evaluate
from tiny_audio.evaluate.statistics import figures
from tiny_audio.evaluate.tables import percent
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.model.checkpoint import resolve_model
from tiny_audio.text.scoring import get_rule
from tiny_audio.train.build import train
from tiny_audio.train.metrics import duration

UNSEEN = 200  # utterances in the final test
SHOWN = 6  # of them, at the end

_INTRODUCTION = """\
A frozen encoder hears, a frozen language model writes, and between them is
a projector that knows nothing yet. It learns now, from sentences that espeak-ng
speaks. Watch three things:
  loss   falls off a cliff: the moment when the language model starts to hear
  WER    word error rate on unseen voices and sentences; 100% is gibberish
  pairs  what was said and what was understood, at each evaluation
"""

_NEXT = """
The curve with the cliff: {out}/loss.png   the figures: {out}/quickstart.json
Next:
  tiny-audio transcribe FILE --model {out}    your recording, your projector
  tiny-audio transcribe FILE                  the same, with the projector that ships
  tiny-audio train +experiments=quickstart model.projector.type=mosa"""


def run(
    *, seed: int, out: Path | None, steps: int | None, try_file: Path | None, device: str
) -> int:
    """Train, test, try, and say what to type next; returns the exit status.

    seed: of sentences, voices, weights, order. out: the run's folder; None: a new one under runs/.
    steps: updates; None: as the experiment says. try_file: a recording to transcribe at the end.
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
    table = Table("was said", "was understood", title_justify="left")
    table.title = "On voices and sentences never heard in training"
    for record in test.records[:SHOWN]:
        table.add_row(record.reference, record.hypothesis)
    console.print("", table)
    console.print(
        f"Word error rate {percent(test.score.wer)} over {len(test.records)} utterances, "
        f"after {duration(summary.seconds)} of training",
        highlight=False,
    )
    about = {"seed": seed, "steps": summary.steps, "training_seconds": round(summary.seconds, 1)}
    (out / "quickstart.json").write_text(json.dumps(about | figures(test), indent=2))
    if try_file is not None:
        transcript = Recogniser(model).transcribe(try_file)
        tried = transcript.text if transcript.error is None else f"({transcript.error})"
        console.print(f"{try_file}: {tried}", highlight=False, markup=False)
    console.print(_NEXT.format(out=out), highlight=False, markup=False)
    return summary.exit_code
