"""Adapters: what learns, PEFT's own format, strict loading, and the report's numbers."""

import json
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from tiny_audio.errors import CheckpointError, ConfigError
from tiny_audio.model.lora import add_lora, load_adapter, save_adapter

LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["all-linear"]}
IDS = torch.arange(12)[None]
BASE = "someone/tiny-qwen3"


def decoder(dtype: torch.dtype = torch.float32, **sizes: int) -> Qwen3ForCausalLM:
    """The same tiny random Qwen3 each time; keyword arguments change its sizes."""
    torch.manual_seed(0)
    values = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    values |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, **sizes}
    lm = Qwen3ForCausalLM(Qwen3Config(**values, tie_word_embeddings=True))
    return lm.to(dtype).eval().requires_grad_(False)


@pytest.fixture
def trained() -> PeftModel:
    model = add_lora(decoder(), **LORA)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def adapted(model: torch.nn.Module) -> set[str]:
    names = [name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name]
    return {name.rsplit(".", 1)[1] for name in names}


def test_fresh_adapters_change_nothing_and_sit_on_every_linear_layer_but_the_head():
    plain = logits(decoder())
    model = add_lora(decoder(), **LORA)
    assert torch.equal(logits(model), plain)
    assert adapted(model) == LINEAR
    model = add_lora(decoder(), **(LORA | {"target_modules": ["q_proj", "v_proj"]}))
    assert adapted(model) == {"q_proj", "v_proj"}


def test_adapters_are_fp32_on_a_half_precision_base():
    model = add_lora(decoder(torch.bfloat16), **LORA)
    dtypes = {(".lora_" in name, p.dtype) for name, p in model.named_parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    assert logits(model).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert logits(model).isfinite().all()


def test_peft_alone_loads_what_was_saved(trained, tmp_path):
    save_adapter(trained, tmp_path, base=BASE)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BASE
    assert not trained.peft_config["default"].inference_mode  # saving does not disturb training
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    peft_model = PeftModel.from_pretrained(decoder(), str(tmp_path))
    assert torch.equal(logits(peft_model.eval()), logits(trained))
    assert not torch.allclose(logits(decoder()), logits(trained), atol=1e-3)


def test_saving_what_was_loaded_gives_equal_files_and_nothing_warns(trained, tmp_path):
    save_adapter(trained, tmp_path / "a", base=BASE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_adapter(decoder(), tmp_path / "a")
        save_adapter(model, tmp_path / "b", base=BASE)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("trainable", [False, True])
def test_load_gives_the_same_logits_and_learns_only_if_asked(trained, tmp_path, trainable):
    save_adapter(trained, tmp_path, base=BASE)
    model = load_adapter(decoder(), tmp_path, LORA if trainable else None)
    assert torch.equal(logits(model), logits(trained))
    assert {p.requires_grad for n, p in model.named_parameters() if ".lora_" in n} == {trainable}
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".lora_" not in n)
    assert not any(module.training for module in model.modules())


def test_adapters_learn_on_with_another_dropout_but_no_other_size(trained, tmp_path):
    save_adapter(trained, tmp_path, base=BASE)
    model = load_adapter(decoder(), tmp_path, LORA | {"lora_dropout": 0.5})
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.5}
    for field, change in (("r=4", {"r": 2}), ("lora_alpha=8", {"lora_alpha": 4})):
        with pytest.raises(CheckpointError, match=field):
            load_adapter(decoder(), tmp_path, LORA | change)


def test_damaged_adapters_are_errors_that_name_the_fault(trained, tmp_path):
    def load(match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            load_adapter(decoder(), tmp_path)

    load("has no adapter_config.json")
    save_adapter(trained, tmp_path, base=BASE)
    weights = tmp_path / "adapter_model.safetensors"
    state = load_file(weights)
    first = sorted(state)[0]
    save_file({name: value for name, value in state.items() if name != first}, weights)
    load(f"misses the tensor '{first}'")
    save_file(state | {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 32)}, weights)
    load("unexpected tensor 'base_model.model.lm_head.lora_A.weight'")
    weights.write_bytes(weights.read_bytes()[:-100])
    load("damaged or cut short")
    weights.unlink()
    load("has no adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LO')
    load("adapter_config.json")


def test_another_base_is_an_error(trained, tmp_path):
    save_adapter(trained, tmp_path, base=BASE)
    with pytest.raises(CheckpointError, match=r"this model has \[40, 4\]"):
        load_adapter(decoder(hidden_size=40), tmp_path)
    with pytest.raises(CheckpointError, match="unexpected tensor"):
        load_adapter(decoder(num_hidden_layers=1), tmp_path)


def test_impossible_settings_are_errors():
    for change, match in (
        ({"target_modules": ["lm_head"]}, "output embedding"),
        ({"target_modules": ["no_such_proj"]}, "no_such_proj"),
        ({"target_modules": []}, "target_modules"),
        ({"r": 0}, r"model\.lora: .*positive"),
        ({"lora_dropout": 1.5}, "dropout probability"),
    ):
        with pytest.raises(ConfigError, match=match):
            add_lora(decoder(), **(LORA | change))
