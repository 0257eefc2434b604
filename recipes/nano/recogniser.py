"""Last stage: decoder and projector hear the encoder, by the house's own loop.

    python -m recipes.nano.recogniser --work DIR [--data DIR] [--flite] [--steps N] [--keep]

Two legs. *Together*: decoder and projector learn on the frozen encoder, so that the decoder meets
the real confusions of this encoder, which its own stage could only imitate (together.py). *Alone*:
the decoder, now frozen and in bf16, keeps still while the projector settles; that projector ships.

Speech: everyday sentences made on the fly, book phrases spoken beforehand (espeak-ng, and flite
where it is asked for) and the real recordings but the held-out tenth, all augmented, and noise
without a word. Decoder and checkpoint are put where ``tiny_audio.load("nano")`` finds them, unless
they are to be kept in the work folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recipes.nano.pair import save_decoder
from recipes.nano.pool import real_rows
from recipes.nano.speech import speak_in_background, wait_for
from recipes.nano.text import clean, cut_books
from recipes.nano.together import learn_together
from tiny_audio.compose import compose
from tiny_audio.config import Config, SourceConfig
from tiny_audio.model.build import ASSETS, build_model
from tiny_audio.model.checkpoint import BUNDLED, save_checkpoint
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.build import train

RATE = 16_000
WEIGHTS = {"synthetic": 0.36, "books": 0.27, "real": 0.37}
SETTINGS = [
    "+experiments=quickstart",
    "data.labels.allow_empty=true",
    f"data.train.synthetic.weight={WEIGHTS['synthetic']}",
    "data.augment.noise_only=0.05",
    *(f"data.augment.{kind}.p=0.4" for kind in ("noise", "room", "speed", "gain", "band")),
    "training.eval_utterances=300",
    "training.batch_seconds=40",
    "training.spec_augment.freq_masks=1",
    "training.spec_augment.freq_width=12",
    "training.spec_augment.time_masks=2",
    "training.spec_augment.time_width=10",
    "training.progress=false",
]
ALONE = ("training.learns=[projector]", "training.learning_rate=0.0005", "training.warmup_steps=20")


def write_manifest(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write JSON lines."""
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def books(work: Path, data: Path, flite: bool, hours: float) -> Path:
    """Speak `hours` of book phrases with each engine, unless that was done, and list them."""
    if not (work / "phrases-train.txt").exists():
        cut_books(data / "text" / "books.txt.xz", work)
    folder = work / "speech"
    if not list(folder.glob("*-train-*.jsonl")):
        engines = ["espeak", "flite"] if flite else ["espeak"]
        wait_for(speak_in_background(work, [(engine, 1, hours) for engine in engines], 600))
    rows: list[dict[str, object]] = []
    for shard in sorted(folder.glob("*-train-*.jsonl")):
        for row in map(json.loads, shard.read_text().splitlines()):
            rows.append({**row, "audio_filepath": f"speech/{row['audio_filepath']}"})
    return write_manifest(work / "books.jsonl", rows)


def real(work: Path, data: Path, *, held_out: bool) -> Path:
    """The real recordings on one side of the recipe's split, transcripts cleaned."""
    folder = (data / "speech_train").resolve()
    rows: list[dict[str, object]] = [
        {
            "audio_filepath": str(folder / row["audio_filepath"]),
            "text": clean(row["text"]),
            "speaker": row["speaker"],
        }
        for row in real_rows(folder, held_out)
    ]
    return write_manifest(work / f"real-{'dev' if held_out else 'train'}.jsonl", rows)


def noises(work: Path, data: Path) -> list[str]:
    """Settings of the augmentation's recordings: rooms, and everything else as noise."""
    folder = (data / "noise").resolve()
    rows = [*map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())]
    settings = []
    for kind in ("noise", "room"):
        kept = [row for row in rows if (row["kind"] == "rir") == (kind == "room")]
        listed = [{"audio_filepath": str(folder / row["audio_filepath"])} for row in kept]
        path = write_manifest(work / f"{kind}.jsonl", listed)
        settings.append(f"data.augment.{kind}.path={path}")
    return settings


def settings(manifests: dict[str, Path], out: Path, steps: int, extra: Sequence[str]) -> Config:
    """Settings of a run: the sources of the mixture, the held-out recordings to watch."""
    often = max(1, steps // 5)
    lengths = [f"training.{key}={often}" for key in ("eval_steps", "save_steps")]
    config = compose(
        [*SETTINGS, *lengths, f"training.max_steps={steps}", f"output_dir={out}", *extra]
    )
    for name in ("books", "real"):
        config.data.train[name] = _manifest(manifests[name], weight=WEIGHTS[name])
    config.data.eval["real"] = _manifest(manifests["dev"], max_samples=200)
    return config


def _manifest(path: Path, **fields: Any) -> SourceConfig:
    return SourceConfig(kind="manifest", path=str(path), audio_column="audio_filepath", **fields)


def last_checkpoint(run: Path) -> Path:
    """The folder of a run's last checkpoint."""
    index = json.loads((run / "checkpoints" / "index.json").read_text())
    return run / "checkpoints" / str(index["last"])


def part_ways(model: SpeechModel, cfg: Config, work: Path) -> None:
    """Write the decoder that learned in the pair's format, and its projector as a checkpoint."""
    causal_lm: Any = model.causal_lm
    save_decoder(causal_lm, ASSETS / "nano" / "decoder", work / "decoder")
    cfg.model.decoder.id = str(work / "decoder")
    settled = build_model(cfg.model, device=torch.device("cpu"))
    settled.projector.load_state_dict(model.projector.state_dict())
    save_checkpoint(settled, work / "projector", config=cfg, metadata={})


def learn(work: Path, manifests: dict[str, Path], steps: int, extra: Sequence[str]) -> Path:
    """One run in the folder, which goes on where it stopped; its last checkpoint."""
    config = settings(manifests, work, steps, extra)
    if (work / "checkpoints" / "index.json").exists():
        config.training.resume_from_checkpoint = "last"
    if train(config).steps < steps:
        raise SystemExit(f"{work}: stopped; the same command goes on")
    return last_checkpoint(work)


def install(decoder: Path, checkpoint: Path, work: Path) -> None:
    """Put decoder and checkpoint where the package finds them, under the package's own names."""
    shutil.copytree(decoder, ASSETS / "nano" / "decoder", dirs_exist_ok=True)
    target = BUNDLED["nano"]
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(checkpoint, target, ignore=shutil.ignore_patterns("training*"))
    for name in ("config.yaml", "tiny_audio.json"):  # where things lay means nothing elsewhere
        told = (target / name).read_text()
        told = told.replace(str(decoder), "bundled:nano/decoder").replace(f"{work}/", "")
        (target / name).write_text(told)
    print(f"{target}: from {checkpoint}")


def main() -> None:
    """Make the manifests, train both legs, install."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--flite", action="store_true", help="its voices, too")
    parser.add_argument("--steps", type=int, default=5_000, help="decoder and projector together")
    parser.add_argument("--alone", type=int, default=800, help="steps of the projector after that")
    parser.add_argument("--start", type=Path, help="checkpoint of an earlier first leg")
    parser.add_argument("--hours", type=float, default=1.0, help="of book phrases, each engine")
    parser.add_argument("--keep", action="store_true", help="leave the package alone")
    parser.add_argument("extra", nargs="*", help="further key=value settings of both legs")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    manifests = {
        "books": books(work, given.data, given.flite, given.hours),
        "real": real(work, given.data, held_out=False),
        "dev": real(work, given.data, held_out=True),
    }
    given.extra += noises(work, given.data)
    cfg = settings(manifests, work / "together", given.steps, given.extra)
    if not (work / "projector").exists():
        model = learn_together(cfg, work, given.start, given.steps)
        part_ways(model, cfg, work)
    decoder, projector = work / "decoder", work / "projector"
    start = [f"model.decoder.id={decoder}", f"model.init_from={projector}"]
    learned = learn(work / "alone", manifests, given.alone, [*ALONE, *given.extra, *start])
    if given.keep:
        print(f"{decoder} and {learned}")
    else:
        install(decoder, learned, work)


if __name__ == "__main__":
    mp.freeze_support()
    main()
