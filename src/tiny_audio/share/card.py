"""The card of a model: its parts and their licences, its training, its figures, its limits."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, RepoCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open

from tiny_audio.compose import compose
from tiny_audio.config import Config, SourceConfig
from tiny_audio.data.sources import benchmarks
from tiny_audio.errors import first_line
from tiny_audio.evaluate.results import SUMMARY
from tiny_audio.evaluate.run import SETTINGS, fingerprint
from tiny_audio.evaluate.statistics import LEVEL
from tiny_audio.hints import BENCHMARKS
from tiny_audio.hub import is_hub_id
from tiny_audio.model.checkpoint import ADAPTER, DECODER, WEIGHTS, read_config, read_info
from tiny_audio.share.modeling_tiny_audio import INSTALL

CURVE = "loss.png"
TASK = "automatic-speech-recognition"
_METRICS = "metrics.jsonl"
_NOT_STATED = "not stated: see its page"
_STAGES = {
    ("projector",): "1, the projector alone; encoder and decoder as published",
    ("lora",): "2, LoRA adapters on the decoder, on a projector trained before",
    ("lora", "projector"): "projector and LoRA adapters on the decoder together",
}
_TRAINED = {
    "projector": WEIGHTS,
    "LoRA adapters": f"{ADAPTER}/adapter_model.safetensors",
    "the decoder's own weights": DECODER,
}
Result = tuple[str, dict[str, Any], str]  # test set, its figures in summary.json, date


def model_card(checkpoint: Path, repo_id: str) -> tuple[str, bytes | None]:
    """The card of a checkpoint, and the picture of its loss where its run has drawn one.

    Figures are those of evaluations of this very checkpoint: ``summary.json`` in its run's folder,
    at any depth, or in a folder beside it. Licences are what the parts' own cards state.
    """
    config, metadata = read_config(checkpoint), read_info(checkpoint).metadata
    run = checkpoint.parents[1] if checkpoint.parent.name == "checkpoints" else checkpoint
    results = _results(checkpoint, run)
    model, learns = config.model, tuple(sorted(config.training.learns))
    sets = [source.path for source in config.data.train.values() if source.kind == "hub"]
    rows: list[dict[str, Any]] = []
    if (run / _METRICS).is_file():
        rows = [json.loads(line) for line in (run / _METRICS).read_text().splitlines()]
    heard: dict[str, Any] = next((row for row in reversed(rows) if row["kind"] == "data"), {})
    curve = (run / CURVE).read_bytes() if (run / CURVE).is_file() else None
    sizes = vars(getattr(model.projector, model.projector.type))
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["tiny-audio", "speech", f"projector-{model.projector.type}"],
        base_model=[one for one in (model.encoder.id, model.decoder.id) if is_hub_id(one)] or None,
        datasets=[path for path in sets if path] or None,
        metrics=["wer"],
        model_name=repo_id.rpartition("/")[2],
        eval_results=[_leaderboard(*one) for one in results] or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("card.md")),
        name=repo_id,
        parts=list(_parts(checkpoint, config)),
        stage=_STAGES.get(learns, " and ".join(learns)),
        projector=model.projector.type,
        sizes=", ".join(f"{name} {value}" for name, value in sizes.items()),
        lora=model.lora if "lora" in learns else None,
        metadata=metadata,
        training=config.training,
        seed=config.seed,
        hours={name[6:]: value for name, value in heard.items() if name.startswith("hours_")},
        instruction=model.decoder.instruction,
        curve=curve,
        results=results,
        level=f"{LEVEL:.0%}",
        install=INSTALL,
        window=f"{model.encoder.window_seconds:g}",
    )
    return str(card), curve


def _parts(checkpoint: Path, config: Config) -> Iterator[tuple[str, str, str]]:
    """(part, what, licence) of bases, of what was trained, and of the data it learned from."""
    model = config.model
    for part, base in (("encoder, frozen", model.encoder), ("decoder", model.decoder)):
        at = f" at `{base.revision[:8]}`" if base.revision else ""
        if is_hub_id(base.id):
            yield part, f"[{base.id}](https://huggingface.co/{base.id}){at}", _licence(base.id)
        else:
            yield part, f"`{base.id}`, part of Tiny Audio", "MIT"
    for part, name in _TRAINED.items():
        if (checkpoint / name).is_file():
            with safe_open(checkpoint / name, framework="pt") as stored:
                keys = stored.keys()
                count = sum(math.prod(stored.get_slice(key).get_shape()) for key in keys)
            what = f"{count:,} parameters, in this repository"
            yield part, what, "of whoever publishes this model"
    for name, source in config.data.train.items():
        if source.kind == "synthetic":
            what = "sentences of the package's own grammar, spoken by espeak-ng"
            yield "data", what, "the package's; what a GPL-3 program speaks is not under GPL-3"
        elif source.kind == "hub":
            link = f"[{source.path}](https://huggingface.co/datasets/{source.path})"
            part = " ".join(one for one in (link, source.subset, source.split) if one)
            yield "data", part, _licence(str(source.path), "dataset")
        else:
            yield "data", f"`{name}`, recordings of whoever trained it", "not stated"


def _licence(repo_id: str, repo_type: str = "model") -> str:
    """What a repository's own card states; the card's reader is told where it states nothing."""
    try:
        card = RepoCard.load(hf_hub_download(repo_id, "README.md", repo_type=repo_type))
    except (EntryNotFoundError, ValueError):  # there is no card, or nothing that can be read
        return _NOT_STATED
    except Exception as error:  # of httpx and huggingface_hub: no common base
        print(f"{repo_id}: its licence cannot be read ({first_line(error)})", file=sys.stderr)
        return _NOT_STATED
    stated = card.data.get("license")
    return ", ".join(stated) if isinstance(stated, list) else str(stated or _NOT_STATED)


def _results(checkpoint: Path, run: Path) -> list[Result]:
    """The newest figures on every whole set of the checkpoint as it is now, the oldest first."""
    now = fingerprint(str(checkpoint))
    found: list[Result] = []
    for file in {*run.rglob(SUMMARY), *run.parent.glob(f"*/{SUMMARY}")}:
        summary = json.loads(file.read_text(encoding="utf-8"))
        if summary.get("limit") is not None or not file.with_name(SETTINGS).is_file():
            continue  # a part of a set, or results that were scored again
        settings = json.loads(file.with_name(SETTINGS).read_text(encoding="utf-8"))
        for name, (path, then) in settings["models"].items():
            if Path(path).resolve() == checkpoint.resolve() and then == now:
                sets = summary.get("models", {name: summary})[name]["sets"].items()
                found += [(one, figures, summary["date"]) for one, figures in sets]
    found = sorted((one for one in found if one[1]["wer"] is not None), key=lambda one: one[2])
    return list(
        {(name, figures["scoring"]): (name, figures, at) for name, figures, at in found}.values()
    )


def _leaderboard(test_set: str, figures: dict[str, Any], date: str) -> EvalResult:
    """A result in the form that leaderboards read: word error rate in percent."""
    spec = SourceConfig()
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
