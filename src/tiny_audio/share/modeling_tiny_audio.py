"""This model for transformers, with trust_remote_code=True: the installed package does the work."""

INSTALL = (
    "It needs the package tiny_audio of the Tiny Audio project, installed from a clone of its "
    "repository with `pip install .`: the package index may have another project's under that name."
)
try:
    from tiny_audio.share.pipeline import (
        TinyAudioConfig,
        TinyAudioModel,
        TinyAudioPipeline,
        TinyAudioProcessor,
    )
except ImportError as error:
    raise ImportError(f"{INSTALL} ({error})") from None

__all__ = ["TinyAudioConfig", "TinyAudioModel", "TinyAudioPipeline", "TinyAudioProcessor"]
