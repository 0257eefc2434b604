"""Settings: what composes, and what is said about what does not."""

import contextlib
import re
import sys
from pathlib import Path

import pytest

from tiny_audio import hints
from tiny_audio.compose import command_line, compose
from tiny_audio.config import RENAMED, Config, SourceConfig
from tiny_audio.errors import ConfigError

KEYS = list(hints.schema_keys())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs(*arguments: str) -> list[Config]:
    """The configurations that the command would run with."""
    return command_line(arguments, "tiny-audio train")


def test_the_result_is_typed_and_a_source_can_be_added() -> None:
    config = compose(
        [
            *("model=tiny", "data=manifest", "data.path=a.jsonl", "+data.train={more: {path: b}}"),
            "training.lora_learning_rate=1e-3",
        ]
    )
    assert isinstance(config, Config)
    main, more = config.data.train.values()
    assert isinstance(main, SourceConfig)
    assert isinstance(more, SourceConfig)
    assert (main.path, main.kind, more.path) == ("a.jsonl", "manifest", "b")
    assert config.training.lora_learning_rate == 1e-3
    assert config.model.encoder.architecture["num_hidden_layers"] == 2


def test_groups_arrive_and_the_command_line_goes_before_the_experiment() -> None:
    libri = compose(["data=librispeech"]).data.train
    assert [libri[name].split for name in libri] == ["train.100", "train.360", "train.500"]
    assert {source.path for source in libri.values()} == {"openslr/librispeech_asr"}
    config = compose(["+experiments=quickstart", "model=tiny", "training.max_steps=7"])
    assert (config.model.name, config.training.max_steps) == ("tiny", 7)
    assert list(config.data.train) == ["synthetic"]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("transcription", ("mlp", ["projector"], False)),
        ("mlp_lora", ("mlp", ["lora"], True)),
        ("mlp_fine_tune", ("mlp", ["projector", "lora"], True)),
        ("mosa", ("mosa", ["projector", "lora"], False)),
        ("moe", ("moe", ["projector", "lora"], False)),
        ("qformer", ("qformer", ["projector"], False)),
        ("glm", ("glm", ["projector"], False)),
    ],
)
def test_each_stage_learns_its_row_of_the_table(name: str, row: tuple[object, ...]) -> None:
    config = compose([f"+experiments={name}"])
    training = config.training
    assert (config.model.projector.type, training.learns, training.requires_init) == row


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.max_step=5", "did you mean training.max_steps?"),
        ("training.lora_alpha=4", "did you mean model.lora.lora_alpha?"),
        ("training.seed=4", "did you mean seed?"),
        ("evaluation.generation.sed=4", "did you mean evaluation.generation.seed?"),
        ("modl=tiny", "did you mean model?"),
        ("fp16=true", "training.precision=bf16"),
        ("+nonsense=5", "there is no setting nonsense"),
        ("+data.train={new: {pth: x}}", "did you mean data.train.new.path?"),
        ("data.train.new.path=x", "data.train has no new: add it with '+data.train={new:"),
        ("model.encoder.architecture.depth=3", "add it with +model.encoder.architecture.depth="),
        ("model=glm_qwen", "did you mean model=glm_qwen3?"),
        ("model=xyz", "there are glm_qwen3, nano, tiny, whisper_qwen3"),
        ("+experiments=transcribe", "did you mean +experiments=transcription?"),
        ("experiments=moe", "use +experiments=moe"),
        ("+model=nano", "write model=NAME"),
        ("training.max_steps=abc", "training.max_steps: Value 'abc'"),
        ("data.chars_per_second=[0.9,x]", "data.chars_per_second[1]"),
        ("training.spec_augment=1", "set training.spec_augment.freq_masks, "),
        ("model.projector=mosa", "set model.projector.type"),
        ("training.max_steps=1,2", "--multirun"),
        ("transcription", "settings are written key=value"),
        ("output_dir=???", "needs a value: output_dir=…"),
        ("output_dir=${nothing}", "'nothing' not found"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


TRAINER = {  # names of transformers' Trainer and of others, and what is to be set here
    "num_train_epochs": "training.max_steps",
    "per_device_train_batch_size": "training.batch_seconds",
    "per_device_eval_batch_size": "evaluation.batch_seconds",
    "fp16": "training.precision=bf16",
    "lr_scheduler_type": "training.min_lr_rate",
    "warmup_ratio": "training.warmup_steps",
    "dataloader_num_workers": "data.num_workers",
    "eval_strategy": "training.eval_steps",
    "push_to_hub": "tiny-audio push",
    "gradient_accumulation": "training.gradient_accumulation_steps",
    "lora_r": "model.lora.r",
    "flash_attention": "model.attn_implementation=flash_attention_2",
    "freeze_encoder": "training.learns=[projector]",
    "lr": "training.learning_rate, training.lora_learning_rate",
    "patience": "training.early_stopping_patience",
    "race": "data.cache_encoder",
}


@pytest.mark.parametrize(("name", "said"), TRAINER.items())
def test_names_of_other_trainers_are_answered_in_every_form(name: str, said: str) -> None:
    dashed = name.replace("_", "-")
    for key in (name, dashed, f"training.{name}"):
        assert re.search(rf"{re.escape(said)}(?!\w)", str(hints.unknown_key(key)))
    for argument in (f"--{dashed}", f"--{name}=1"):
        assert said in str(hints.written_as_flag(argument))


def test_every_former_name_is_answered_with_todays() -> None:
    for old, new in RENAMED.items():
        assert new in KEYS
        assert str(hints.unknown_key(old)).endswith(f"set {new}")


def test_advice_names_only_settings_that_exist_and_hides_none() -> None:
    values = [key for key in KEYS if not any(other.startswith(f"{key}.") for other in KEYS)]
    for known, tip in hints.ADVICE.items():
        for key in re.findall(r"\b(?:training|data|model|evaluation)\.[\w.]*\w", tip):
            assert key in KEYS
        assert not any(re.fullmatch(known, key.split(".")[-1]) for key in values)


def test_every_key_is_its_own_nearest() -> None:
    assert len(KEYS) == len(set(KEYS)) > 100
    assert [hints.nearest_key(key) for key in KEYS] == KEYS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--training.max_steps=5"], "write training.max_steps=5, not --training.max_steps"),
        (["--model", "tiny"], "write model=VALUE, not --model"),
        (["--max-steps", "5"], "did you mean training.max_steps?"),
        (["model=tiny", "seed=x"], "seed: Value 'x'"),
        (["--run", "--multirun"], "Only one of"),
    ],
)
def test_the_command_line_says_it_too(folder: Path, arguments: list[str], said: str) -> None:
    before = list(sys.argv)
    with pytest.raises(ConfigError) as caught:
        runs(*arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []
    assert sys.argv == before


def test_a_run_has_the_folder_that_hydra_made(folder: Path) -> None:
    (config,) = runs("model=tiny", "output_dir=here")
    assert config.output_dir == "here"
    assert (folder / "here" / ".hydra" / "overrides.yaml").is_file()
    (config,) = runs("model=tiny")
    assert (folder / config.output_dir).is_dir()
    assert config.output_dir.startswith("runs/tiny-")


def test_only_the_first_of_several_processes_makes_a_folder(folder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    (config,) = runs("model=tiny")
    assert config.output_dir.startswith("runs/tiny-")
    assert list(folder.iterdir()) == []


def test_multirun_gives_each_job_its_own_folder(folder: Path) -> None:
    configs = runs("model=tiny", "seed=1,2", "output_dir=sweep", "--multirun")
    assert [config.seed for config in configs] == [1, 2]
    folders = [Path(config.output_dir) for config in configs]
    assert folders == [folder / "sweep" / "0", folder / "sweep" / "1"]


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--help"], ["--info", "defaults"]])
def test_looking_makes_no_folder_and_runs_nothing(folder, capsys, flags):
    with contextlib.suppress(SystemExit):  # how Hydra ends its help
        assert runs("model=tiny", *flags) == []
    assert list(folder.iterdir()) == []
    assert "tiny" in capsys.readouterr().out


def test_the_rate_of_a_part_that_does_not_learn_is_refused() -> None:
    assert compose(["training.learning_rate=1e-4"]).training.learning_rate == 1e-4
    with pytest.raises(ConfigError, match=r"frozen in this stage: set training\.lora_learning"):
        compose(["+experiments=mlp_lora", "training.learning_rate=1e-4"])
