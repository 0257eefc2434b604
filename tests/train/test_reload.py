"""What a stage has taught is there again in another process, to the letter."""

import json
import subprocess
import sys
from itertools import islice

import pytest
import soundfile

from tests.train.helpers import settings
from tiny_audio.data.synthetic import synthetic_utterances
from tiny_audio.infer.transcribe import Recogniser, Transcript
from tiny_audio.model.checkpoint import BUNDLED, read_info
from tiny_audio.train.build import Run
from tiny_audio.train.distributed import close_accelerator, open_accelerator

# name: (where it starts, what learns, what its checkpoint holds)
STAGES = {
    "1 projector": ("nano", ["projector"], ["projector"]),
    "2 lora": ("1 projector", ["lora"], ["projector", "lora"]),
    "3 both": ("2 lora", ["projector", "lora"], ["projector", "lora"]),
    "decoder": ("1 projector", ["projector", "decoder"], ["projector", "decoder"]),
}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("spoken")
    files = []
    for number, one in enumerate(islice(synthetic_utterances("test", seed=11), 2)):
        files.append(str(folder / f"{number}.wav"))
        soundfile.write(files[-1], one.waveform, 16_000)
    return files


@pytest.mark.slow
def test_every_stage_writes_the_same_in_a_new_process(data, spoken, tmp_path):
    folders = {"nano": BUNDLED["nano"]}
    written: dict[str, list[Transcript]] = {}
    for stage, (start, learns, parts) in STAGES.items():
        cfg = settings(
            data,
            tmp_path / stage.replace(" ", "-"),
            *("model=nano", f"model.init_from={folders[start]}", "training.eval_steps=0"),
            *(f"training.learns=[{','.join(learns)}]", "training.eval_utterances=0"),
            *("training.max_steps=3", "training.warmup_steps=0", "training.batch_seconds=8"),
            *(
                *["training.learning_rate=1e-3"] * ("projector" in learns),
                "training.lora_learning_rate=1e-2",
                "training.decoder_learning_rate=1e-3",
            ),
        )
        accelerator = open_accelerator(cfg.device, cfg.training.precision, cfg.output_dir)
        try:
            run = Run(cfg, accelerator)
            last = run.train(None).last
        finally:
            close_accelerator(accelerator)
        folders[stage] = last
        assert read_info(last).parts == parts
        written[stage] = Recogniser(run.model).transcribe(spoken)  # as the run left it in memory
    code = (
        "import sys, tiny_audio\n"
        "folders, files = (a.split('\\n') for a in sys.argv[1:])\n"
        "for folder in folders:\n"
        "    for t in tiny_audio.load(folder, device='cpu').transcribe(files): print(t.to_json())"
    )
    names = "\n".join(str(folder) for folder in folders.values())
    done = subprocess.run(
        [sys.executable, "-c", code, names, "\n".join(spoken)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = iter(json.loads(line) for line in done.stdout.splitlines())
    again = {stage: list(islice(lines, len(spoken))) for stage in folders}
    for stage, (start, _, _) in STAGES.items():
        assert [t.text for t in written[stage]] == [line["text"] for line in again[stage]], stage
        for one, line in zip(written[stage], again[stage], strict=True):
            assert line["logprob"] == pytest.approx(one.logprob, abs=1e-5), stage
        before = [line["logprob"] for line in again[start]]
        assert [line["logprob"] for line in again[stage]] != pytest.approx(before, abs=1e-3), stage
    assert any(line["text"] for lines in again.values() for line in lines)
