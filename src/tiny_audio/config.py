"""Every setting of Tiny Audio, once: these dataclasses are the schema that Hydra checks.

The YAML files in ``conf/`` choose values; nothing else holds a default. Modules further down take
plain values, never these objects. Change any setting on the command line as ``key=value``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MISSING: Any = "???"  # OmegaConf's mark for a value that must be given


@dataclass
class FeaturesConfig:
    """Log-mel spectrogram. The defaults are those of GLM-ASR and Whisper large-v3."""

    n_mels: int = 128  # mel bands
    n_fft: int = 400  # window, samples (25 ms)
    hop: int = 160  # step, samples (10 ms)


@dataclass
class EncoderConfig:
    """The frozen audio encoder."""

    id: str = MISSING  # hub id or folder
    revision: str | None = None  # commit or tag on the hub
    padding: str = "tight"  # tight: clips keep their length; native: zero-padded to `window`
    window_seconds: float = 30.0  # longest clip it takes at once; `native` pads to it
    architecture: dict[str, Any] = field(default_factory=dict)  # of random_weights: type, sizes


@dataclass
class DecoderConfig:
    """The frozen language model."""

    id: str = MISSING
    revision: str | None = None
    placeholder: str | None = None  # token that holds an audio token's place; null: choose one
    instruction: str = "Transcribe: "  # the user turn is this, then the audio tokens
    architecture: dict[str, Any] = field(default_factory=dict)


@dataclass
class MlpConfig:
    """Frame stacking, then Linear, RMSNorm, GELU, Linear, RMSNorm."""

    stride: int = 4  # encoder frames stacked into one audio token
    hidden: int = 2048


@dataclass
class MosaConfig:
    """Mixture of Simple Adapters (arXiv 2508.18998): every adapter contributes."""

    stride: int = 4
    adapters: int = 4  # Base 4, Large 8
    hidden: int = 2048  # width inside one adapter
    router_hidden: int = 512


@dataclass
class MoeConfig:
    """One shared expert plus sparsely routed experts."""

    stride: int = 4
    experts: int = 4  # routed experts
    top_k: int = 2
    hidden: int = 2048  # width inside one expert
    balance_weight: float = 0.01  # Switch load-balance loss
    z_weight: float = 0.001  # router z-loss
    jitter: float = 0.01  # multiplicative router noise in training


@dataclass
class QFormerConfig:
    """BLIP-2's Q-Former over windows of encoder frames."""

    window: int = 15  # encoder frames a window
    queries: int = 3  # learned queries, hence audio tokens, a window
    layers: int = 2
    heads: int = 16
    hidden: int = 1024
    intermediate: int = 4096


@dataclass
class GlmConfig:
    """GLM-ASR's own: frame stacking, Linear, GELU, Linear; 2 W wide inside, with biases."""

    stride: int = 4  # the only one that transformers' class takes


@dataclass
class ProjectorConfig:
    """The module that learns. `type` picks one of the sections below it."""

    type: str = "mlp"  # mlp | mosa | moe | qformer | glm
    mlp: MlpConfig = field(default_factory=MlpConfig)
    mosa: MosaConfig = field(default_factory=MosaConfig)
    moe: MoeConfig = field(default_factory=MoeConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    glm: GlmConfig = field(default_factory=GlmConfig)


@dataclass
class LoraConfig:
    """Adapters on the decoder, used when training.learns holds `lora`. The names are PEFT's."""

    r: int = 8  # rank
    lora_alpha: int = 32  # the update is scaled by lora_alpha / r
    lora_dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])


@dataclass
class ModelConfig:
    """The pair and what joins it."""

    name: str = MISSING  # glm_qwen3 | whisper_qwen3 | nano | tiny, for messages and checkpoints
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    init_from: str | None = None  # checkpoint whose weights a later stage starts from
    random_weights: bool = False  # build the architecture with random weights, download nothing
    attn_implementation: str = "sdpa"  # sdpa | flash_attention_2
    dtype: str = "auto"  # auto | float32 | bfloat16: of the frozen weights


@dataclass
class SourceConfig:
    """One set of recordings with transcripts."""

    kind: str = "manifest"  # manifest | folder | hub | parquet | webdataset | synthetic
    path: str | None = None  # manifest, folder, hub dataset id, or files, see docs/data.md
    subset: str | None = None  # hub: configuration name
    split: str | None = None  # hub: split; synthetic: train or test
    revision: str | None = None  # hub
    audio_column: str = "audio"
    text_column: str = "text"
    id_column: str | None = None
    speaker_column: str | None = "speaker"
    max_samples: int | None = None  # use only the first so many
    weight: float = 1.0  # share in a mixture
    mean_seconds: float | None = None  # of its utterances, where data.weights=hours; null: measure
    options: dict[str, Any] = field(default_factory=dict)  # further arguments of this kind


@dataclass
class LabelConfig:
    """How transcripts are cleaned before they are learned."""

    case: str = "auto"  # keep | lower | lower_capitals | auto: lower sets that are in capitals
    punctuation: str = "keep"  # keep | strip
    allow_empty: bool = False  # learn clips without words as an end token only
    case_of: dict[str, str] = field(default_factory=dict)  # by set; auto adds its decisions here


@dataclass
class ChangeConfig:
    """One way to change training audio."""

    p: float = 0.0  # probability for each clip on each pass; 0: off
    range: list[float] = field(default_factory=list)  # lowest and highest
    path: str | None = None  # room and noise: folder or manifest of recordings


@dataclass
class AugmentConfig:
    """Changes to training audio, made by the workers in this order."""

    speed: ChangeConfig = field(default_factory=lambda: ChangeConfig(range=[0.9, 1.1]))  # factor
    room: ChangeConfig = field(default_factory=ChangeConfig)  # reverberation
    noise: ChangeConfig = field(default_factory=lambda: ChangeConfig(range=[5.0, 25.0]))  # SNR, dB
    noise_only: float = 0.0  # probability that only the noise is left, to be learned as no words
    band: ChangeConfig = field(default_factory=lambda: ChangeConfig(range=[3e3, 7e3]))  # up to, Hz
    telephone: ChangeConfig = field(default_factory=ChangeConfig)  # 300 to 3400 Hz, 8 bits
    gain: ChangeConfig = field(default_factory=lambda: ChangeConfig(range=[-12.0, 6.0]))  # dB
    transforms: list[Any] = field(default_factory=list)  # of audiomentations: {name: …, p: …, …}


@dataclass
class DataConfig:
    """What is learned from and what is evaluated on."""

    path: str | None = None  # the short way: training data of data=manifest and data=folder
    eval_path: str | None = None  # the short way: evaluation data; null: hold out from `path`
    train: dict[str, SourceConfig] = field(default_factory=dict)
    eval: dict[str, SourceConfig] = field(default_factory=dict)
    weights: str = "utterances"  # utterances | hours: what the weights of `train` are shares of
    exhausted: str = "repeat"  # repeat | stop: what a source does when it ends
    holdout: int = 64  # utterances held out of the training data where there is no eval set
    min_seconds: float = 0.2
    max_seconds: float = 30.0
    max_label_tokens: int = 448
    chars_per_second: list[float] = field(default_factory=lambda: [0.3, 40.0])  # of a label
    max_clipped: float = 0.02  # share of samples at full scale
    silence_db: float = -60.0  # dBFS; a clip is silent that is nowhere louder
    num_workers: int = 2  # processes that decode audio
    pool: int = 512  # utterances that are shuffled and sorted by length together
    cache_encoder: str | None = None  # folder that keeps the encoder's frames, for later passes
    cache_variants: int = 1  # of each clip in it: the first without SpecAugment, others with
    labels: LabelConfig = field(default_factory=LabelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class SpecAugmentConfig:
    """Masks on the log-mel in training (Park et al. 2019)."""

    freq_masks: int = 2
    freq_width: int = 27  # mel bands at most
    time_masks: int = 2
    time_width: int = 50  # mel frames at most
    max_time_fraction: float = 0.2  # of a clip, for each time mask


@dataclass
class TrainingConfig:
    """The recipe. What transformers' TrainingArguments also has is named as there."""

    learns: list[str] = field(default_factory=lambda: ["projector"])  # projector, lora, decoder
    requires_init: bool = False  # stage 2 and 3: refuse to start without model.init_from
    max_steps: int = 10_000
    batch_seconds: Any = 120.0  # padded audio in one micro-batch of one process; or `auto`
    max_utterances: int = 64  # cap on one micro-batch
    gradient_accumulation_steps: int = 1  # micro-batches to one step
    learning_rate: float = 1e-3  # of the projector, at its peak; as the next two
    lora_learning_rate: float = 2e-4
    decoder_learning_rate: float = 2e-5
    weight_decay: float = 0.0  # of the projector
    lora_weight_decay: float = 0.0
    decoder_weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    warmup_steps: int = 500
    min_lr_rate: float = 0.1  # of the peak, at the end of the cosine
    max_grad_norm: float = 1.0
    precision: str = "auto"  # auto | bf16 | fp32: autocast; auto is bf16 on CUDA
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    gradient_checkpointing: bool = False
    torch_compile: bool = False  # the layers of encoder and decoder, by torch.compile
    logging_steps: int = 10
    eval_steps: int = 500
    eval_utterances: int = 64  # for WER in training; the loss uses all held-out utterances
    show_examples: int = 3
    save_steps: int = 500
    save_total_limit: int = 3
    metric_for_best_model: str = "wer"  # wer | loss
    early_stopping_patience: int | None = None  # end after so many evaluations, none better
    resume_from_checkpoint: str | None = None  # a folder, or `last`
    report_to: str | None = None  # wandb | tensorboard
    progress: bool = True  # live display; off prints plain lines


@dataclass
class GenerationConfig:
    """How text is decoded; the names are those of transformers, of the guards Whisper's."""

    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0  # of sampling, for each clip
    tokens_per_second: float = 10.0  # cap on new tokens in proportion to the audio,
    min_tokens: int = 24  # but never below this
    cuda_graphs: bool = True  # CUDA: replay the decoding step instead of launching its parts
    stop_loops: bool = True  # stop a text that repeats itself without any more audio to say so
    no_speech_threshold: float | None = 0.02  # above: no text, unless it is sure of itself
    logprob_threshold: float | None = -1.0  # mean of the tokens; below: unsure
    compression_ratio_threshold: float | None = 2.4  # above: the text repeats itself
    temperature_increment_on_fallback: float | None = None  # what is unsure or repeats: sample it
    hotwords: list[str] = field(default_factory=list)  # words to favour
    hotwords_boost: float = 4.0  # nats by which each token of them may be less likely


@dataclass
class EvaluationConfig:
    """How a model is scored."""

    scoring: str = "whisper-en"  # whisper-en | basic
    batch_seconds: float = 240.0
    max_utterances: int = 64
    generation: GenerationConfig = field(default_factory=GenerationConfig)


@dataclass
class ServeConfig:
    """What a server listens to and what it takes."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_upload_bytes: int = 25 << 20  # of a request; as OpenAI's
    max_audio_seconds: float = 14_400.0  # of a recording, however small its file is
    upload_seconds: float = 60.0  # until a request must have come in whole
    max_requests: int = 256  # in work or waiting; more are answered 429


@dataclass
class Config:
    """One run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    output_dir: str = MISSING
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda | mps


# What settings were called in earlier versions: read from old checkpoints, and explained on the
# command line. Where a setting held several values, each of them has a line.
RENAMED = {
    "training.lr.projector": "training.learning_rate",
    "training.lr.lora": "training.lora_learning_rate",
    "training.lr.decoder": "training.decoder_learning_rate",
    "training.weight_decay.projector": "training.weight_decay",
    "training.weight_decay.lora": "training.lora_weight_decay",
    "training.weight_decay.decoder": "training.decoder_weight_decay",
    "training.betas.0": "training.adam_beta1",
    "training.betas.1": "training.adam_beta2",
    "training.accumulation": "training.gradient_accumulation_steps",
    "training.min_lr_ratio": "training.min_lr_rate",
    "training.compile": "training.torch_compile",
    "training.log_every": "training.logging_steps",
    "training.eval_every": "training.eval_steps",
    "training.save_every": "training.save_steps",
    "training.keep_checkpoints": "training.save_total_limit",
    "training.metric_for_best": "training.metric_for_best_model",
    "training.patience": "training.early_stopping_patience",
    "training.tracker": "training.report_to",
    "data.workers": "data.num_workers",
    "model.attention": "model.attn_implementation",
    "model.lora.rank": "model.lora.r",
    "model.lora.alpha": "model.lora.lora_alpha",
    "model.lora.dropout": "model.lora.lora_dropout",
    "model.lora.targets": "model.lora.target_modules",
    "evaluation.generation.beams": "evaluation.generation.num_beams",
    "evaluation.generation.sample": "evaluation.generation.do_sample",
}

# Settings that are gone: passed over in old checkpoints, answered on the command line.
REMOVED = ("training.race", "training.lr", "training.betas")
