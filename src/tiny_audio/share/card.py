"""The card of a model: its parts and their licences, its training, its figures, its limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, RepoCard, hf_hub_download
from safetensors import safe_open

from tiny_audio.compose import compose
from tiny_audio.config import Config, SourceConfig
from tiny_audio.data.sources import benchmarks
from tiny_audio.evaluate.results import SUMMARY
from tiny_audio.evaluate.run import SETTINGS, fingerprint
from tiny_audio.evaluate.statistics import LEVEL
from tiny_audio.hints import BENCHMARKS
from tiny_audio.hub import is_hub_id
from tiny_audio.model.checkpoint import ADAPTER, CONFIG, DECODER, WEIGHTS, read_config, read_info
from tiny_audio.share.modeling_tiny_audio import INSTALL

CURVE = "loss.png"
_METRICS = "metrics.jsonl"
TASK = "automatic-speech-recognition"
_NOT_STATED = "not stated: see its page"
_SYNTHETIC = "sentences of the package's own grammar, spoken by espeak-ng"
_STAGES = {
    ("projector",): "1, the projector alone; encoder and decoder as published",
    ("lora",): "2, LoRA adapters on the decoder, on a projector trained before",
    ("lora", "projector"): "projector and LoRA adapters on the decoder together",
}

_TEXT = """
# {name}

A speech recogniser made with Tiny Audio: a frozen audio encoder hears, a language model writes, and
a small projector, which was trained, joins them.

## Parts

| part | what | licence |
|---|---|---|
{parts}

Only what was trained is in this repository. Encoder and decoder come from where they were
published, as they were when this model was trained.

## Training

{training}

{curve}## Figures

{figures}

## How to use

{install}

```bash
tiny-audio transcribe speech.wav --model {name}
```

```python
import tiny_audio

print(tiny_audio.load("{name}").transcribe("speech.wav").text)
```

With transformers:

```python
from transformers import pipeline

recognise = pipeline("automatic-speech-recognition", model="{name}", trust_remote_code=True)
print(recognise("speech.wav", return_timestamps="word"))
```

## Limits

{limits}
"""


def model_card(checkpoint: Path, repo_id: str) -> tuple[str, bytes | None]:
    """The card of a checkpoint, and the picture of its loss where its run has drawn one.

    Figures are those of evaluations of this very checkpoint: ``summary.json`` in its run's folder,
    at any depth, or in a folder beside it. Licences are what the parts' own cards state.
    """
    config, info = read_config(checkpoint), read_info(checkpoint)
    run = checkpoint.parents[1] if checkpoint.parent.name == "checkpoints" else None
    found = list(_evaluations(checkpoint, run)) if run else []
    curve = run / CURVE if run and (run / CURVE).is_file() else None
    published = [
        one for one in (config.model.encoder.id, config.model.decoder.id) if is_hub_id(one)
    ]
    sets = [source.path for source in config.data.train.values() if source.kind == "hub"]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["tiny-audio", "speech", f"projector-{config.model.projector.type}"],
        base_model=published or None,
        datasets=[path for path in sets if path] or None,
        metrics=["wer"],
        model_name=repo_id.rpartition("/")[2],
        eval_results=[_result(*one) for one in found] or None,
    )
    text = _TEXT.format(
        name=repo_id,
        install=INSTALL,
        parts="\n".join(f"| {' | '.join(row)} |" for row in _parts(checkpoint, config)),
        training="\n".join(f"- {line}" for line in _training(config, info.metadata, run)),
        curve=f"![loss and word error rate over the steps]({CURVE})\n\n" if curve else "",
        figures=_figures(found),
        limits="\n".join(f"- {line}" for line in _limits(config, found)),
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")
    return str(card), curve.read_bytes() if curve else None


def _parts(checkpoint: Path, config: Config) -> Iterator[tuple[str, str, str]]:
    """(part, what, licence) of bases, of what was trained, and of the data it learned from."""
    model = config.model
    for part, base in (("encoder, frozen", model.encoder), ("decoder", model.decoder)):
        at = f" at `{base.revision[:8]}`" if base.revision else ""
        if is_hub_id(base.id):
            yield part, f"[{base.id}](https://huggingface.co/{base.id}){at}", _licence(base.id)
        else:
            yield part, f"`{base.id}`, part of Tiny Audio", "MIT"
    trained = {"projector": WEIGHTS, "LoRA adapters": f"{ADAPTER}/adapter_model.safetensors"}
    trained["decoder's own weights"] = DECODER
    for part, name in trained.items():
        if (checkpoint / name).is_file():
            kind = f"`{model.projector.type}`, " if part == "projector" else ""
            count = f"{kind}{_parameters(checkpoint / name):,} parameters, in this repository"
            yield part, count, "of whoever publishes this model"
    for name, source in config.data.train.items():
        licence = _licence(source.path, "dataset") if source.kind == "hub" and source.path else ""
        if source.kind == "synthetic":
            yield (
                "data",
                _SYNTHETIC,
                "the package's; what espeak-ng (GPL-3) speaks is not under its licence",
            )
        elif source.kind == "hub":
            part = " ".join(one for one in (source.subset, source.split) if one)
            link = f"[{source.path}](https://huggingface.co/datasets/{source.path})"
            yield "data", f"{link} {part}".rstrip(), licence
        else:
            yield "data", f"`{name}`, recordings of whoever trained it", "not stated"


def _training(config: Config, metadata: dict[str, Any], run: Path | None) -> Iterator[str]:
    settings, projector = config.training, config.model.projector.type
    learns = tuple(sorted(settings.learns))
    yield f"Stage: {_STAGES.get(learns, ' and '.join(learns))}."
    yield f"Projector: `{projector}`, {_values(vars(getattr(config.model.projector, projector)))}."
    if "lora" in learns:
        lora = config.model.lora
        yield f"LoRA: rank {lora.r}, alpha {lora.lora_alpha}, dropout {lora.lora_dropout:g}."
    yield (
        f"Steps: {metadata.get('step', '?')} of {settings.max_steps}, {settings.batch_seconds} s "
        f"of audio in a batch, learning rate {settings.learning_rate:g}, seed {config.seed}."
    )
    rows = (run / _METRICS).read_text().splitlines() if run and (run / _METRICS).is_file() else []
    heard = [row for row in map(json.loads, rows) if row["kind"] == "data"][-1:]
    for row in heard:
        hours = {key[6:]: value for key, value in row.items() if key.startswith("hours_")}
        each = ", ".join(f"{name} {value:,.2f}" for name, value in hours.items())
        yield f"Hours of audio heard: {sum(hours.values()):,.2f} ({each})."
    if metadata.get("wer") is not None:
        yield f"Word error rate on the utterances held out of training: {metadata['wer']:.1%}."
    yield f"Prompt: `{config.model.decoder.instruction}`, then the audio. All settings: `{CONFIG}`."


def _values(section: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in section.items()) or "without settings"


def _parameters(path: Path) -> int:
    with safe_open(path, framework="pt") as stored:
        shapes = [stored.get_slice(key).get_shape() for key in stored.keys()]  # noqa: SIM118
    total = 0
    for shape in shapes:
        count = 1
        for size in shape:
            count *= size
        total += count
    return total


def _licence(repo_id: str, repo_type: str = "model") -> str:
    """What a repository's own card states; the card's reader is told where it states nothing."""
    try:
        card = RepoCard.load(hf_hub_download(repo_id, "README.md", repo_type=repo_type))
    except Exception:  # no card, not allowed, no network: no common base
        return _NOT_STATED
    stated = card.data.get("license")
    return ", ".join(stated) if isinstance(stated, list) else str(stated or _NOT_STATED)


# ---------------------------------------------------------------------------------------- figures


def _evaluations(checkpoint: Path, run: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(set, figures, date) of every evaluation of the checkpoint as it is now, oldest first."""
    files = {*run.rglob(SUMMARY), *run.parent.glob(f"*/{SUMMARY}")}
    now = fingerprint(str(checkpoint))
    found = []
    for file in files:
        summary = json.loads(file.read_text(encoding="utf-8"))
        try:
            settings = json.loads((file.parent / SETTINGS).read_text(encoding="utf-8"))
        except FileNotFoundError:  # of results that were scored again
            continue
        if settings["limit"] is not None:
            continue  # a part of a set is no result
        for name, (path, then) in settings["models"].items():
            if Path(path).resolve() == checkpoint.resolve() and then == now:
                of_model = summary.get("models", {name: summary})[name]
                for test_set, figures in of_model["sets"].items():
                    found.append((test_set, figures, str(summary["date"])))
    yield from sorted(found, key=lambda one: one[2])


def _result(test_set: str, figures: dict[str, Any], date: str) -> EvalResult:
    """A result in the form that leaderboards read: word error rate in percent."""
    spec = SourceConfig(path=None)
    if test_set in benchmarks():
        specs = compose([f"+{BENCHMARKS}={test_set}", "data=manifest", "output_dir=."]).data.eval
        given = [one for one in specs.values() if one.path is not None]
        spec = given[0] if len(given) == 1 else spec
    return EvalResult(
        task_type=TASK,
        task_name="Automatic Speech Recognition",
        dataset_type=spec.path or test_set,
        dataset_name=test_set,
        dataset_config=spec.subset,
        dataset_split=spec.split,
        dataset_revision=spec.revision,
        metric_type="wer",
        metric_name=f"WER ({figures['scoring']})",
        metric_value=round(100 * figures["wer"], 2),
    )


def _figures(found: list[tuple[str, dict[str, Any], str]]) -> str:
    if not found:
        return (
            "None were measured on a whole test set. `tiny-audio eval` measures them; the next "
            "push shows them here."
        )
    lines = [
        f"| test set | WER | {LEVEL:.0%} interval | S | D | I | utterances | rule | measured |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for test_set, one, date in found:
        low, high = one["intervals"]["wer"] or (None, None)
        interval = "" if low is None else f"{low:.1%} to {high:.1%}"
        kinds = [f"{one[f'{kind}_rate']:.1%}" for kind in ("substitution", "deletion", "insertion")]
        row = [f"{one['wer']:.1%}", interval, *kinds, f"{one['utterances']:,}", one["scoring"]]
        lines.append(f"| {test_set} | {' | '.join(row)} | {date[:10]} |")
    unit = found[0][1]["bootstrap"]["unit"]
    return "\n".join(lines) + (
        f"\n\nWER is the share of words wrong: S substituted, D deleted, I inserted. Intervals are "
        f"bootstrapped over {unit}s. The rule says how texts are normalised before comparison."
    )


def _limits(config: Config, found: list[tuple[str, dict[str, Any], str]]) -> Iterator[str]:
    yield (
        "What it was not trained on (other languages, accents, telephones, music, distance) it "
        "recognises worse, or not at all."
    )
    yield "As it writes with a language model, it can write fluent words that nobody said."
    yield (
        f"Recordings of more than {config.model.encoder.window_seconds:g} s are cut at pauses, and "
        "each piece is recognised by itself."
    )
    if not found:
        yield "It was not measured: do not rely on it."
