"""Several projectors trained side by side: the encoder runs once for all of them.

    data ─► encoder (once) ─► mlp ─► decoder     each with its own optimizer, log and checkpoints,
                          └─► moe ─► decoder     in turns, one update each

Each is the run that it would be alone: same first weights, same batches in the same order, same
random numbers (its state of the generators is put in place for its turn). One thing differs: a
clip too short for any of the projectors is left out for all.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from accelerate import Accelerator

from tiny_audio.config import Config
from tiny_audio.errors import CheckpointError, ConfigError
from tiny_audio.model.build import with_projector
from tiny_audio.model.checkpoint import load_weights
from tiny_audio.model.projectors import PROJECTORS
from tiny_audio.train.assembly import Run, RunSummary
from tiny_audio.train.budget import AUTO
from tiny_audio.train.cache import open_cache
from tiny_audio.train.checkpoints import find_checkpoint, quality
from tiny_audio.train.first_labels import look_at_labels
from tiny_audio.train.interrupt import StopSignal
from tiny_audio.train.lanes import EncodedOnce, Lane, Shared
from tiny_audio.train.messages import interruption
from tiny_audio.train.pace import Frames
from tiny_audio.train.parts import Parts
from tiny_audio.train.progress import LineDisplay, Named, open_display
from tiny_audio.train.rng import restore_rng, rng_state
from tiny_audio.train.saving import open_store, resume_point
from tiny_audio.train.setup import (
    find_augmentation,
    find_data,
    make_data,
    make_model,
    start_tracker,
)

RESULT = "race.json"


def check_race(cfg: Config) -> None:
    """Refuse a race that cannot be. Raises ConfigError."""
    race = cfg.training.race
    unknown = [kind for kind in race if kind not in PROJECTORS]
    if unknown or len(set(race)) < len(race):
        raise ConfigError(
            f"training.race={race}: name each of {', '.join(PROJECTORS)} once at most"
        )
    if race and (list(cfg.training.learns) != ["projector"] or cfg.model.init_from is not None):
        raise ConfigError(
            "training.race: only fresh projectors can share a decoder; it goes with "
            "training.learns=[projector] and without model.init_from"
        )
    if race and cfg.training.batch_seconds == AUTO:
        raise ConfigError("training.race: give training.batch_seconds a number, not auto")


def train_race(cfg: Config, accelerator: Accelerator, argv: Sequence[str] | None) -> RunSummary:
    """Train all of ``training.race``, each in a folder of its name; the winner's summary."""
    display = open_display(live=False, max_steps=cfg.training.max_steps)
    runs, frames = _open(cfg, accelerator, display)
    say = display.say if accelerator.is_main_process else (lambda text: None)
    say(f"A race of {', '.join(runs)}: one encoder pass for all of them")
    began = time.perf_counter()
    for run in runs.values():
        run.begin()
    start_tracker(accelerator, cfg, Path(cfg.output_dir))
    interrupted = _take_turns(list(runs.values()), accelerator)
    seconds = time.perf_counter() - began
    ends = {kind: run.finish(seconds, interrupted) for kind, run in runs.items()}
    for line in [] if frames is None else [frames.summary()]:
        say(line)
    best = min(
        ends, key=lambda kind: quality(cfg.training.metric_for_best_model, *_scores(runs[kind]))
    )
    summary = replace(ends[best], output_dir=Path(cfg.output_dir))
    if accelerator.is_main_process:
        for line in [*summary.rejects.summary(), *_table(runs, ends, best)]:
            say(line)
        if interrupted is not None:
            for line in interruption(
                summary.output_dir,
                number=interrupted,
                step=summary.steps,
                argv=argv,
                processes=accelerator.num_processes,
            ):
                say(line)
    return summary


def _open(
    cfg: Config, accelerator: Accelerator, display: LineDisplay
) -> tuple[dict[str, Run], Frames | None]:
    """The runs by the name of their projector."""
    race = list(cfg.training.race)
    own = {kind: _alone(cfg, kind) for kind in race}
    resumed = _resume_points(own)
    sources, augment = find_data(cfg), find_augmentation(cfg)
    first = make_model(own[race[0]], accelerator.device, resumed[race[0]])
    models = {race[0]: first}
    for kind in race[1:]:
        models[kind] = with_projector(first, own[kind].model, seed=cfg.seed)
        found = resumed[kind]
        if found is not None:
            load_weights(models[kind], found)
    root = Path(cfg.output_dir)
    say = display.say if accelerator.is_main_process else (lambda text: None)
    look_at_labels(cfg, sources, first, accelerator, resumed[race[0]], say)
    for kind in race:
        own[kind].data.labels = cfg.data.labels  # what was settled is kept in every checkpoint
    stream, held_out, rejects = make_data(
        cfg,
        sources,
        augment,
        first,
        accelerator,
        root / "checkpoints" / "last" if any(resumed.values()) else None,
        audio_tokens=lambda samples: min(m.audio_tokens(samples) for m in models.values()),
    )
    cache = open_cache(cfg, first, accelerator, sources[0], display.say)
    shared = Shared(stream, cache or EncodedOnce(first, accelerator), len(race))
    begin = rng_state({})
    runs: dict[str, Run] = {}
    for number, kind in enumerate(race):
        restore_rng(begin, {})
        lane = Lane(shared, number, models[kind])
        named = Named(kind, display)
        parts = Parts(models[kind], lane, held_out, rejects, named, None, resumed[kind])
        runs[kind] = Run(own[kind], accelerator, parts, name=kind)
        runs[kind].random = rng_state({})  # after a resume: of that checkpoint
    return runs, cache


def _alone(cfg: Config, kind: str) -> Config:
    """The configuration of a run of this projector alone."""
    own = copy.deepcopy(cfg)
    own.training.race = []
    own.model.projector.type = kind
    own.output_dir = str(Path(cfg.output_dir) / kind)
    where = own.training.resume_from_checkpoint
    if where is not None and where != "last":
        own.training.resume_from_checkpoint = str(Path(where) / kind)
    return own


def _resume_points(own: dict[str, Config]) -> dict[str, Path | None]:
    """Where each run goes on: the last step that all of them have saved.

    Raises:
        CheckpointError: there is no such step.
    """
    found: dict[str, Path | None] = {}
    steps: list[set[int]] = []
    for kind, cfg in own.items():
        where, folder = cfg.training.resume_from_checkpoint, Path(cfg.output_dir)
        if where is None:
            resume_point(cfg, open_store(cfg, folder), folder)  # refuses a folder that is in use
            found[kind] = None
            continue
        run = find_checkpoint(where, folder).parent.parent
        steps.append({entry.step for entry in open_store(cfg, run).entries})
        found[kind] = run
    if not steps:
        return found
    common = set.intersection(*steps)
    if not common:
        raise CheckpointError(
            f"training.resume_from_checkpoint: {', '.join(own)} have no saved step in common"
        )
    for kind, at in found.items():
        assert at is not None
        store = open_store(own[kind], at)
        if at.resolve() == Path(own[kind].output_dir).resolve():
            store.forget_after(max(common))
        entry = next(entry for entry in store.entries if entry.step == max(common))
        found[kind] = store.folder / entry.name
    return found


def _take_turns(runs: list[Run], accelerator: Accelerator) -> int | None:
    """One update of each run after the other, until all have ended; the signal, if one did it."""
    told = SimpleNamespace(received=None)  # the same for all within a round
    active = [(run, run.trainer.steps(told)) for run in runs]
    with StopSignal(patient=accelerator.num_processes > 1) as stop:
        while active:
            told.received = stop.received
            for run, steps in list(active):
                restore_rng(run.random, {})
                if next(steps, None) is None:
                    active.remove((run, steps))  # and with it its copy of the stream
                run.random = rng_state({})
    return next((run.trainer.ended_by for run in runs if run.trainer.ended_by), None)


def _scores(run: Run) -> tuple[float | None, float | None]:
    """Best word error rate and loss of a run, of one evaluation; its training loss without any."""
    rows = run.report.monitor.rows
    evals = [row for row in rows if row["kind"] == "eval"]
    if evals:
        metric = run.cfg.training.metric_for_best_model
        best = min(evals, key=lambda row: quality(metric, row["wer"], row["eval_loss"]))
        return best["wer"], best["eval_loss"]
    return None, next((row["loss"] for row in reversed(rows) if row["kind"] == "train"), None)


def _table(runs: dict[str, Run], ends: dict[str, RunSummary], best: str) -> list[str]:
    """Who is best, as lines, and as race.json in the folder of the race."""
    rows = []
    lines = [f"{'projector':<10} {'parameters':>12} {'WER':>8} {'loss':>8}  checkpoint"]
    for kind, run in runs.items():
        wer, loss = _scores(run)
        count = run.learning["projector"]
        rows.append({"projector": kind, "parameters": count, "wer": wer, "loss": loss})
        shown = "none" if wer is None else f"{wer:.1%}"
        cost = "none" if loss is None else f"{loss:.4f}"
        mark = "  <- best" if kind == best else ""
        lines.append(f"{kind:<10} {count:>12,} {shown:>8} {cost:>8}  {ends[kind].best}{mark}")
    folder = runs[best].folder.parent
    (folder / RESULT).write_text(json.dumps({"best": best, "runs": rows}, indent=1) + "\n")
    return lines
