"""The prompt equals the chat template's own text, token for token, whatever the audio's length."""

import datetime
import pickle

import pytest

from tiny_audio.errors import ModelError
from tiny_audio.text.prompt import Prompt

TRANSCRIPTS = ["hello", "", " leading space", "...", "5% off", "\n\nlines", "<|im_end|>", "Ünï"]


def render(tokenizer, turns, **options):
    return tokenizer.apply_chat_template(turns, tokenize=False, enable_thinking=False, **options)


def user_turn(tokenizer, prompt, n_audio, instruction="Transcribe: "):
    spare = tokenizer.convert_ids_to_tokens(prompt.placeholder_id)
    return {"role": "user", "content": instruction + spare * n_audio}


def test_qwen3_prompt_reads_as_intended(qwen3):
    prompt = Prompt.from_tokenizer(qwen3)
    assert qwen3.decode(prompt.prefix_ids) == "<|im_start|>user\nTranscribe: "
    assert qwen3.decode(prompt.suffix_ids) == (
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert qwen3.decode([prompt.end_id]) == "<|im_end|>"
    assert prompt.placeholder_id < len(qwen3)


def test_build_equals_the_full_template_tokenised(tokenizer):
    prompt = Prompt.from_tokenizer(tokenizer)
    one = render(tokenizer, [user_turn(tokenizer, prompt, 1)], add_generation_prompt=True)
    spare = tokenizer.convert_ids_to_tokens(prompt.placeholder_id)
    for n in (*range(1, 21), 375):
        text = one.replace(spare, spare * n)
        if n < 20:
            turns = [user_turn(tokenizer, prompt, n)]
            assert text == render(tokenizer, turns, add_generation_prompt=True)
        ids = prompt.build(n)
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == prompt.fixed_length + n
        start, end = prompt.audio_span(n)
        assert ids[start:end] == [prompt.placeholder_id] * n
        assert prompt.placeholder_id not in ids[:start] + ids[end:]


@pytest.mark.parametrize("transcript", TRANSCRIPTS)
def test_training_prefix_is_the_inference_prompt(tokenizer, transcript):
    prompt = Prompt.from_tokenizer(tokenizer)
    ids, n_prefix = prompt.training(7, transcript)
    assert ids[:n_prefix] == prompt.build(7)
    assert ids[-1] == prompt.end_id
    assert ids.count(prompt.end_id) == prompt.build(7).count(prompt.end_id) + 1
    assert tokenizer.decode(ids[n_prefix:-1], clean_up_tokenization_spaces=False) == transcript


@pytest.mark.parametrize("transcript", ["hello world", "5% off.", "Well, I don't know"])
def test_training_ids_equal_the_template_of_the_finished_turn(tokenizer, transcript):
    prompt = Prompt.from_tokenizer(tokenizer)
    turns = [user_turn(tokenizer, prompt, 3), {"role": "assistant", "content": transcript}]
    whole = tokenizer(render(tokenizer, turns), add_special_tokens=False)["input_ids"]
    ids, _ = prompt.training(3, transcript)
    assert whole[: len(ids)] == ids
    assert tokenizer.decode(whole[len(ids) :]).strip() == ""


def test_the_tokenizer_is_left_as_it_was_and_pickling_keeps_the_ids(tokenizer):
    size, sample = len(tokenizer), "a <|im_end|> b"
    before = tokenizer(sample)["input_ids"]
    prompt = Prompt.from_tokenizer(tokenizer)
    copy = pickle.loads(pickle.dumps(prompt))
    assert copy == prompt
    assert copy.training(3, sample) == prompt.training(3, sample)
    assert (len(tokenizer), tokenizer(sample)["input_ids"]) == (size, before)


def test_another_instruction_and_a_named_placeholder_and_no_audio(qwen3):
    prompt = Prompt.from_tokenizer(qwen3, "Write down, in English: ", placeholder="<|vision_pad|>")
    assert qwen3.decode(prompt.prefix_ids).endswith("user\nWrite down, in English: ")
    assert qwen3.decode([prompt.placeholder_id]) == "<|vision_pad|>"
    with pytest.raises(ValueError, match="at least one"):
        prompt.build(0)


LLAMA3 = (
    "{{ bos_token }}<|header|>system\n{{ strftime_now('%d %b %Y') }}<|eot|>"
    "{% for m in messages %}<|header|>{{ m.role }}\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"

RESERVED = "<|reserved_special_token_7|>"
SPECIAL = ("<bos>", "<eos>", "<|header|>", "<|eot|>")
FAMILIES = {  # template, special tokens, end of a turn, placeholder
    "llama3": (LLAMA3, (*SPECIAL, RESERVED), "<|eot|>", RESERVED),
    "gemma": (LLAMA3, (*SPECIAL, "<unused0>"), "<|eot|>", "<unused0>"),
    "llama2": (LLAMA2, ("<bos>", "<eos>", "<unk>"), "<eos>", "<unk>"),
    "plain": (PLAIN, ("<bos>", "<eos>", "<pad>"), "<eos>", "<pad>"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_of_templates(tokenizer_factory, family):
    template, special, end, spare = FAMILIES[family]
    tokenizer = tokenizer_factory(
        template,
        special,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>" if "<unk>" in special else None,
        pad_token="<pad>" if "<pad>" in special else "<eos>",
    )
    prompt = Prompt.from_tokenizer(tokenizer)
    assert tokenizer.convert_ids_to_tokens([prompt.end_id, prompt.placeholder_id]) == [end, spare]
    assert tokenizer.decode(prompt.prefix_ids).endswith("Transcribe: ")
    assert prompt.build(5).count(prompt.placeholder_id) == 5


def test_a_template_that_writes_the_date_gives_the_same_prompt_every_day(tokenizer_factory):
    special = FAMILIES["gemma"][1]
    tokenizer = tokenizer_factory(LLAMA3, special, bos_token="<bos>", eos_token="<eos>")
    text = tokenizer.decode(Prompt.from_tokenizer(tokenizer).prefix_ids)
    assert datetime.date.today().strftime("%d %b %Y") not in text
    assert "26 Jul 2024" in text


def test_errors_say_what_to_do(tokenizer_factory, qwen3):
    with pytest.raises(ModelError, match="no chat template"):
        Prompt.from_tokenizer(tokenizer_factory(None))
    with pytest.raises(ModelError, match="no spare token"):
        Prompt.from_tokenizer(tokenizer_factory(special=("<|im_start|>", "<|im_end|>")))
    twice = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
    with pytest.raises(ModelError, match="2 times"):
        Prompt.from_tokenizer(tokenizer_factory(twice))
    with pytest.raises(ModelError, match="fails on a plain user turn"):
        Prompt.from_tokenizer(tokenizer_factory("{{ raise_exception('system turn wanted') }}"))
    with pytest.raises(ModelError, match="is no spare token"):
        Prompt.from_tokenizer(qwen3, placeholder="<|nonsense|>")
    with pytest.raises(ModelError, match="is no spare token"):
        Prompt.from_tokenizer(qwen3, placeholder="<|im_end|>")
    with pytest.raises(ModelError, match="Nothing ends"):
        Prompt.from_tokenizer(tokenizer_factory(PLAIN))


def test_a_chat_end_token_cannot_be_the_placeholder(tokenizer_factory):
    template = "{% for m in messages %}{{ m.role }}{{ m.content }}<|eot|>{% endfor %}"
    tokenizer = tokenizer_factory(template, ("<eos>", "<|eot|>"), eos_token="<eos>")
    with pytest.raises(ModelError, match="another spare token"):
        Prompt.from_tokenizer(tokenizer, placeholder="<|eot|>")
