"""The command line: ``tiny-audio COMMAND``.

Every command imports what it needs when it runs, so that ``tiny-audio --help`` answers at once.
Mistakes that the user can mend end in one line and status 2; Ctrl-C ends in status 130.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tiny_audio import logs
from tiny_audio.config import Config, EvaluationConfig, GenerationConfig
from tiny_audio.data.commands import data as data_commands
from tiny_audio.errors import ConfigError, TinyAudioError
from tiny_audio.evaluate.commands import analysis
from tiny_audio.serve.commands import serve
from tiny_audio.share.commands import export, push, push_data

PROGRAM = "tiny-audio"
INTERRUPTED = 130  # by Ctrl-C, as a shell counts
# Typer's own class for a wrong command line, whichever copy of Click it is built on.
_UsageError: Any = typer.BadParameter.__mro__[1]

_PLAIN: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "rich_markup_mode": None,  # Rich would double the time that --help takes
    "pretty_exceptions_enable": False,
}
app = typer.Typer(help="Teach one small module, and a frozen pair recognises speech.", **_PLAIN)
debug = typer.Typer(help="Look inside a model or a checkpoint.", **_PLAIN)
app.add_typer(debug, name="debug")
app.add_typer(data_commands, name="data")
app.add_typer(analysis, name="analysis")
app.command()(serve)
app.command()(push)
app.command()(export)
data_commands.command("push")(push_data)

_MODELS = "nano, a checkpoint, a run's folder or a hub id"
Folder = Annotated[Path, typer.Argument(help="a checkpoint or a run's folder")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Seconds = Annotated[float, typer.Option(help="audio in one batch, padding included")]
_size: Any = {"parser": lambda text: 0 if str(text) == "auto" else int(text), "metavar": "N|auto"}
Size = Annotated[int, typer.Option(help="utterances in one batch; auto: what fits", **_size)]


def _dtype(text: str) -> str:
    if text not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"--dtype {text}: use auto, float32 or bfloat16.")
    return text


def _bytes(text: str) -> int:
    """Bytes of a size such as 500MB or 1.5G, in powers of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)([KMGT]?)(?:I?B)?", text.upper())
    size = int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " ")) if found else 0
    if size < 1:
        raise ConfigError(f"--max-download {text}: give a size such as 500MB or 2GB.")
    return size


_formats: Any = {"parser": _dtype, "metavar": "auto|float32|bfloat16"}
Dtype = Annotated[str | None, typer.Option(help="of the frozen weights", **_formats)]
_sizes: Any = {"parser": _bytes, "metavar": "SIZE"}
_MOST = "bytes of an address or a pipe at most, such as 500MB [default: 1GB and 2GB]"
MaxDownload = Annotated[int | None, typer.Option(help=_MOST, **_sizes)]
Quantise = Annotated[str | None, typer.Option(help="int8: smaller weights")]
Beams = Annotated[int, typer.Option(min=1, help="beams of the search; 1 is greedy")]
_SOURCES = "recordings, folders, patterns or URLs; - is standard input"
Recordings = Annotated[list[str], typer.Argument(help=_SOURCES)]
_FORMATS = "write files: txt, srt, vtt, tsv, json or all"
_FOLDER = "folder for them [default: this one]"
_LIVE = "- is raw audio, 16-bit mono at 16 kHz, that is written down while it comes"
_LIVE_TAKES = ("model", "as_json", "device", "quantise", "dtype")
Format = Annotated[str | None, typer.Option(help=_FORMATS)]
OutputDir = Annotated[Path | None, typer.Option(help=_FOLDER)]
_underlined = "subtitles underline each word while it is spoken"
Highlight = Annotated[bool, typer.Option(help=_underlined)]
VadThreshold = Annotated[float, typer.Option(min=0.0, max=1.0, help="probability of speech")]
_names = "names to listen for: with commas, or a file, one a line"
HotWords = Annotated[str | None, typer.Option(help=_names)]
Boost = Annotated[float, typer.Option(help="how much they are favoured")]
Context = Annotated[str | None, typer.Option(help="for a model that was trained with one")]
Gate = Annotated[float | None, typer.Option(help="most probability that nobody speaks")]
Unsure = Annotated[float | None, typer.Option(help="mean below which a text is unsure")]
Repetitive = Annotated[float | None, typer.Option(help="above, a text repeats itself")]
_AS_GIVEN = (  # options of transcribe that its command takes by the same names
    "model", "device", "as_json", "stream", "batch_seconds", "beams", "quantise", "dtype",
    "word_timestamps", "hotwords_boost", "no_speech_threshold", "logprob_threshold",
    "compression_ratio_threshold", "temperature_increment_on_fallback",
)  # fmt: skip
_again = "sample again what is unsure or repeats itself; Whisper: 0.2 [default: off]"
Fallback = Annotated[float | None, typer.Option(help=_again)]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what the libraries log, too.")
    ] = False,
) -> None:
    if version:
        from tiny_audio import __version__

        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.command()
def quickstart(
    try_file: Annotated[Path | None, typer.Option("--try", help="a recording of yours")] = None,
    seed: Annotated[int, typer.Option(help="of sentences, voices and weights")] = Config.seed,
    out: Annotated[Path | None, typer.Option(help="the run's folder [default: in runs/]")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="updates of the projector")] = None,
    device: Device = Config.device,
) -> None:
    """Train a small recogniser here and now: minutes, no GPU, no network."""
    from tiny_audio.quickstart import run as run_quickstart

    code = run_quickstart(seed=seed, out=out, steps=steps, try_file=try_file, device=device)
    raise typer.Exit(code)


@app.command()
def doctor() -> None:
    """Show what this machine has, what will work on it and what will not."""
    from tiny_audio.doctor import doctor_command

    raise typer.Exit(doctor_command())


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def train(context: typer.Context) -> None:
    """Train, set by key=value; train --help shows every setting."""
    from tiny_audio.compose import command_line

    configs = command_line(context.args, f"{PROGRAM} train")
    if configs:  # else the command line only asked to be shown something
        from tiny_audio.train.build import train as run

        raise typer.Exit(max(run(config, argv=sys.argv).exit_code for config in configs))


@app.command("eval")
def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help=f"{_MODELS}, also of any transformers recogniser"),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="a manifest, a folder, a benchmark or a data preset")
    ] = None,
    rescore: Annotated[Path | None, typer.Option(help="score this results.jsonl again")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for results [default: in runs/]")] = None,
    scoring: Annotated[
        str, typer.Option(help="whisper-en, basic or characters")
    ] = EvaluationConfig.scoring,
    checkpoint: Annotated[str, typer.Option(help="of runs: best or last")] = "best",
    batch_seconds: Seconds = EvaluationConfig.batch_seconds,
    batch_size: Size = EvaluationConfig.max_utterances,
    device: Device = Config.device,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many")] = None,
    beams: Beams = GenerationConfig.num_beams,
    language: Annotated[str | None, typer.Option(help="for foreign models of several")] = None,
    quantise: Quantise = None,
    dtype: Dtype = None,
    max_download: MaxDownload = None,
    report: Annotated[Path | None, typer.Option(help="also write an HTML page here")] = None,
) -> None:
    """Score models on test sets: word error rate with its parts, speed; goes on where it was."""
    if rescore is not None:
        from tiny_audio.evaluate.run import rescore_command

        if models or data:
            raise typer.BadParameter("--rescore takes neither models nor --data")
        rescore_command(rescore, scoring=scoring, out=out, report=report)
        return
    if not models or not data:
        raise typer.BadParameter("give MODEL... and --data SET, or --rescore FILE")
    from tiny_audio.evaluate.models import Options
    from tiny_audio.evaluate.run import evaluate_command

    sizes = batch_seconds, batch_size
    options = Options(device, *sizes, beams, language, quantise, dtype, max_download, limit)
    evaluate_command(models, data, options, scoring, out, checkpoint, report)


@app.command()
def transcribe(
    context: typer.Context,
    files: Recordings,
    model: Annotated[str, typer.Option(help=_MODELS)] = "nano",
    output_format: Format = None,
    output_dir: OutputDir = None,
    overwrite: Annotated[bool, typer.Option(help="also those that are there already")] = False,
    word_timestamps: Annotated[bool, typer.Option(help="times of every word")] = False,
    max_line_width: Annotated[int, typer.Option(min=1, help="characters, of subtitles")] = 42,
    max_line_count: Annotated[int, typer.Option(min=1, help="lines, of subtitles")] = 2,
    highlight_words: Highlight = False,
    vad: Annotated[bool, typer.Option("--vad", help="leave out what is no speech")] = False,
    vad_threshold: VadThreshold = 0.5,
    vad_min_silence_ms: Annotated[int, typer.Option(min=0, help="shorter pauses are kept")] = 2000,
    vad_speech_pad_ms: Annotated[int, typer.Option(min=0, help="kept around speech")] = 400,
    hotwords: HotWords = None,
    hotwords_boost: Boost = GenerationConfig.hotwords_boost,
    prompt: Context = None,
    no_speech_threshold: Gate = GenerationConfig.no_speech_threshold,
    logprob_threshold: Unsure = GenerationConfig.logprob_threshold,
    compression_ratio_threshold: Repetitive = GenerationConfig.compression_ratio_threshold,
    temperature_increment_on_fallback: Fallback = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object for each file")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="print words as they come")] = False,
    live: Annotated[bool, typer.Option("--live", help=_LIVE)] = False,
    batch_seconds: Seconds = EvaluationConfig.batch_seconds,
    batch_size: Size = EvaluationConfig.max_utterances,
    device: Device = Config.device,
    beams: Beams = GenerationConfig.num_beams,
    quantise: Quantise = None,
    dtype: Dtype = "auto",
    max_download: MaxDownload = None,
) -> None:
    """Write down what recordings say, in any common audio or video format."""
    from tiny_audio.infer.commands import output_files, read_hotwords, transcribe_command
    from tiny_audio.infer.transcript import Layout
    from tiny_audio.infer.vad import VadOptions

    if live:
        _refuse(context, "--live", {"files", "live", *_LIVE_TAKES})
        from tiny_audio.infer.listen import pipe_command

        pipe_command(files, **{name: context.params[name] for name in _LIVE_TAKES})
        return
    layout = Layout(max_line_width, max_line_count, highlight_words)
    speech = VadOptions(vad_threshold, 0, vad_min_silence_ms, vad_speech_pad_ms)
    code = transcribe_command(
        files,
        max_utterances=batch_size,
        max_bytes=max_download,
        output=output_files(output_format, output_dir, overwrite, layout),
        vad=speech if vad else False,
        hotwords=read_hotwords(hotwords, prompt),
        **{name: context.params[name] for name in _AS_GIVEN},
    )
    raise typer.Exit(code)


def _refuse(context: typer.Context, option: str, taken: set[str]) -> None:
    """Refuse options that would be passed over beside this one."""
    for name in context.params.keys() - taken:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"{option}: leave out --{name.replace('_', '-')}.")


@app.command()
def listen(
    model: Annotated[str, typer.Option(help=_MODELS)] = "nano",
    input_name: Annotated[
        str | None, typer.Option("--input", help="microphone: its number or part of its name")
    ] = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="show the microphones and end")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="one JSON object for each update")
    ] = False,
    device: Device = Config.device,
    quantise: Quantise = None,
    dtype: Dtype = "auto",
) -> None:
    """Write down what is said into the microphone, as it is said; Ctrl-C ends it."""
    from tiny_audio.infer.listen import listen_command

    options = {"device": device, "quantise": quantise, "dtype": dtype}
    listen_command(input_name, list_devices, model=model, as_json=as_json, **options)


@app.command()
def merge(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="folder for the merged checkpoint")],
    device: Device = "cpu",
) -> None:
    """Fold a checkpoint's LoRA adapters into its decoder."""
    from tiny_audio.model.checkpoint import merge_command

    merge_command(str(folder), str(out), device)


@debug.command("model")
def debug_model(
    what: Annotated[
        list[str] | None, typer.Argument(help="a checkpoint, nano, or settings: model=tiny")
    ] = None,
) -> None:
    """Print an architecture: parts, sizes, what learns, frame rates, memory."""
    from tiny_audio.model.inspect import describe_command

    describe_command(what or [])


@debug.command("projector")
def debug_projector(
    folder: Folder,
    files: Annotated[list[str] | None, typer.Argument(help="recordings to try it on")] = None,
    out: Annotated[Path | None, typer.Option(help="the picture [default: projector.png]")] = None,
) -> None:
    """Show what a projector does: scale, routing, what its tokens say; with a picture."""
    from tiny_audio.model.inspect import projector_command

    projector_command(str(folder), None if out is None else str(out), files or [])


@debug.command("lora")
def debug_lora(folder: Folder) -> None:
    """Show how much each LoRA adapter changes its layer."""
    from tiny_audio.model.inspect import lora_command

    lora_command(str(folder))


def main() -> None:
    """The console script."""
    # A closed standard output or error must not become the next file that is opened.
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if stream is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    if sys.stderr is None:  # or `print(file=None)` would write to standard output
        sys.stderr = os.fdopen(2, "w")
    status = run(sys.argv[1:])
    hanging = any(thread.name == "prefetch" for thread in threading.enumerate())
    if hanging:  # in a read, for which Python's own end would wait
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    try:
        status = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except OSError:
        if sys.stdout is None:
            raise
        try:
            print(flush=True)  # fails again where standard output cannot be written
        except OSError as lost:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more at exit
            if isinstance(lost, BrokenPipeError):  # the reader has left
                return 141
            print(f"error: standard output cannot be written: {lost.strerror}.", file=sys.stderr)
            return 2
        raise


def _run(arguments: Sequence[str]) -> int:
    quiet = [item for item in arguments if item not in ("-v", "--verbose")]  # wherever it stands
    logs.start(verbose=len(quiet) < len(arguments))
    try:
        return int(app(args=quiet, prog_name=PROGRAM, standalone_mode=False) or 0)
    except TinyAudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except _UsageError as error:
        error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except SystemExit as end:  # of Hydra's help, and of Rich and Click where the reader has left
        return end.code if isinstance(end.code, int) else int(end.code is not None)
