"""The command `tiny-audio serve`; imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tiny_audio.config import Config, EvaluationConfig, ServeConfig

_Names = Annotated[
    list[str] | None, typer.Option("--name", help="what clients ask for [default: MODEL]")
]
_Keys = Annotated[Path | None, typer.Option(help="a key a line; also in TINY_AUDIO_API_KEYS")]
_Origins = Annotated[
    list[str] | None, typer.Option("--allow-origin", help="a site whose pages may ask")
]
_Replicas = Annotated[
    int, typer.Option(min=0, help="copies of the model, by Ray Serve; 0: one, without it")
]


def serve(
    model: Annotated[
        str, typer.Argument(help="nano, a checkpoint, a run's folder or a hub id")
    ] = "nano",
    host: Annotated[str, typer.Option(help="0.0.0.0: the whole network")] = ServeConfig.host,
    port: Annotated[int, typer.Option(min=0, max=65535)] = ServeConfig.port,
    names: _Names = None,
    api_key_file: _Keys = None,
    origins: _Origins = None,
    max_upload_mb: Annotated[
        int, typer.Option(min=1, help="megabytes of a request")
    ] = ServeConfig.max_upload_bytes >> 20,
    max_audio_seconds: Annotated[
        float, typer.Option(min=1, help="of a recording")
    ] = ServeConfig.max_audio_seconds,
    upload_timeout: Annotated[
        float, typer.Option(min=1, help="seconds until a request must be there")
    ] = ServeConfig.upload_seconds,
    max_requests: Annotated[
        int, typer.Option(min=1, help="at once; more are told to come again")
    ] = ServeConfig.max_requests,
    batch_seconds: Annotated[
        float, typer.Option(min=1, help="audio in one batch, padding included")
    ] = EvaluationConfig.batch_seconds,
    batch_size: Annotated[
        int, typer.Option(min=1, help="spans in one batch")
    ] = EvaluationConfig.max_utterances,
    replicas: _Replicas = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = Config.device,
    quantise: Annotated[str | None, typer.Option(help="int8: smaller weights")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16")] = "auto",
) -> None:
    """Serve a model to OpenAI's clients: files, live audio, and a page to try it."""
    from tiny_audio.serve.run import serve_command

    settings = ServeConfig(
        host, port, max_upload_mb << 20, max_audio_seconds, upload_timeout, max_requests
    )
    code = serve_command(
        model,
        settings,
        replicas=replicas,
        names=names or [],
        key_file=api_key_file,
        origins=origins or [],
        device=device,
        dtype=dtype,
        quantise=quantise,
        batch_seconds=batch_seconds,
        max_utterances=batch_size,
    )
    raise typer.Exit(code)
