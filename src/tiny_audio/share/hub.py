"""To the Hugging Face Hub: a checkpoint or a data set, in one commit that is whole or not at all.

Large files are uploaded first, each under its hash, and only then does the commit name them: what
breaks off leaves the repository as it was, and the next attempt sends only what has not arrived.
"""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from omegaconf import OmegaConf

from tiny_audio import hub
from tiny_audio.errors import CheckpointError, HubError, first_line
from tiny_audio.model.checkpoint import (
    ADAPTER,
    CONFIG,
    DECODER,
    INFO,
    WEIGHTS,
    find_checkpoint,
    read_config,
    read_info,
)
from tiny_audio.share.card import CURVE, TASK, model_card

Files = Mapping[str, Path | bytes]  # by their names in the repository
README = "README.md"
ADAPTER_FILES = [f"{ADAPTER}/adapter_config.json", f"{ADAPTER}/adapter_model.safetensors"]
TOKENIZER_FILES = (
    "tokenizer* chat_template.jinja vocab.* merges.txt special_tokens_map.json added_tokens.json "
    "preprocessor_config.json"
).split()
_REMOTE = Path(__file__).with_name("modeling_tiny_audio.py")
_AUTO_MAP = {"AutoConfig": "Config", "AutoModel": "Model", "AutoProcessor": "Processor"}
_OURS = [README, CURVE, INFO, CONFIG, WEIGHTS, DECODER, *ADAPTER_FILES, *TOKENIZER_FILES]


def remote_files() -> dict[str, Path | bytes]:
    """What transformers reads first of a model whose code it does not have."""
    classes = {name: f"{_REMOTE.stem}.TinyAudio{kind}" for name, kind in _AUTO_MAP.items()}
    impl = {"impl": f"{_REMOTE.stem}.TinyAudioPipeline", "pt": ["AutoModel"]}
    config = {
        "model_type": "tiny_audio",
        "architectures": ["TinyAudioModel"],
        "auto_map": classes,
        "custom_pipelines": {TASK: impl},
    }
    processor = {"auto_map": {"AutoProcessor": classes["AutoProcessor"]}}
    return {
        _REMOTE.name: _REMOTE,
        "config.json": json.dumps(config, indent=2).encode(),
        "processor_config.json": json.dumps(processor, indent=2).encode(),
    }


@dataclass(frozen=True)
class Target:
    """Where to, and how."""

    repo_id: str
    repo_type: str = "model"
    revision: str | None = None  # a branch, made where there is none
    private: bool = False
    create_pr: bool = False
    dry_run: bool = False


def push_command(run: str, target: Target) -> None:
    """Send a checkpoint with its card to the hub. Raises CheckpointError or HubError."""
    check_target(target)
    checkpoint = find_checkpoint(run)
    check_bases(checkpoint)
    files = package(checkpoint, target.repo_id)
    message = f"Tiny Audio checkpoint {checkpoint.name}"
    if target.dry_run:
        content = files[README]
        assert isinstance(content, bytes)
        print(content.decode(), end="\n\n")
    print(send(files, target, replaces=[*_OURS, *remote_files()], message=message))


def package(checkpoint: Path, repo_id: str) -> Files:
    """All that others need of a checkpoint, with its card and what transformers reads. Of paths on
    this machine only the last part is left."""
    info = read_info(checkpoint)
    named = [INFO, WEIGHTS]
    named += [DECODER] if "decoder" in info.parts else []
    named += ADAPTER_FILES if "lora" in info.parts else []
    files: dict[str, Path | bytes] = {name: checkpoint / name for name in named}
    for path in sorted(checkpoint.iterdir()):
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in TOKENIZER_FILES):
            files[path.name] = path
    stored = OmegaConf.to_container(OmegaConf.load(checkpoint / CONFIG))
    files[CONFIG] = OmegaConf.to_yaml(OmegaConf.create(_without_folders(stored))).encode()
    files |= remote_files()
    card, curve = model_card(checkpoint, repo_id)
    files[README] = card.encode()
    return files if curve is None else files | {CURVE: curve}


def check_bases(checkpoint: Path) -> None:
    """Raise CheckpointError where a base is a folder of this machine."""
    config = read_config(checkpoint)
    for name, base in (("encoder", config.model.encoder), ("decoder", config.model.decoder)):
        if Path(base.id).is_dir() and not config.model.random_weights:
            raise CheckpointError(
                f"{checkpoint}: model.{name}.id={base.id} is a folder of this machine, where "
                "nobody else finds it: push that model first, and train with its hub id"
            )


def _without_folders(value: Any) -> Any:
    """Settings in which the paths of this machine are their last parts alone."""
    if isinstance(value, dict):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    absolute = isinstance(value, str) and re.match(r"[/~\\]|[A-Za-z]:\\", value)
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if absolute else value


def check_target(target: Target) -> None:
    """Raise HubError, before anything is done, where nothing can be sent."""
    if not hub.is_hub_id(target.repo_id):
        raise HubError(f"{target.repo_id}: is no name of a repository: use the form USER/NAME")
    if target.dry_run:
        return
    if HF_HUB_OFFLINE:
        raise HubError(f"{target.repo_id}: HF_HUB_OFFLINE is set: unset it to send something")
    if get_token() is None:
        raise HubError(
            f"{target.repo_id}: there is no token: log in with 'hf auth login' or set HF_TOKEN, to "
            "one that may write"
        )


def send(files: Files, target: Target, *, replaces: Collection[str], message: str) -> str:
    """Commit files and return what to tell the user; old ones whose names are among the patterns
    of ``replaces`` go. Raises HubError, and then the repository is as it was."""
    sizes = {n: len(f) if isinstance(f, bytes) else f.stat().st_size for n, f in files.items()}
    if target.dry_run:
        listed = "\n".join(f"{size:>13,}  {name}" for name, size in sorted(sizes.items()))
        return f"{listed}\n{sum(sizes.values()):>13,}  bytes to {target.repo_id}; nothing was sent"
    try:
        with hub.bars(shown=sys.stderr.isatty()):
            made = _commit(HfApi(), files, target, replaces, message)
    except HubError:
        raise
    except Exception as error:  # of httpx, huggingface_hub and the disk: no common base
        raise HubError(_explain(error, target)) from error
    return f"Sent {sum(sizes.values()):,} bytes: {made.pr_url or made.commit_url}"


def _commit(
    api: HfApi, files: Files, target: Target, replaces: Collection[str], message: str
) -> Any:
    where: dict[str, Any] = {"repo_id": target.repo_id, "repo_type": target.repo_type}
    if not target.create_pr:
        api.create_repo(**where, private=target.private or None, exist_ok=True)
    if target.private and not api.repo_info(**where).private:
        raise HubError(
            f"{target.repo_id}: is public already: make it private in its settings, or choose "
            "another name"
        )
    if target.revision is not None and not target.create_pr:
        api.create_branch(**where, branch=target.revision, exist_ok=True)
    where["revision"] = target.revision
    before: Any = api.repo_info(**where)
    present = {file.rfilename for file in before.siblings or []}
    gone = {name for name in present if any(fnmatch.fnmatch(name, one) for one in replaces)}
    changes = [
        CommitOperationAdd(n, f if isinstance(f, bytes) else str(f)) for n, f in files.items()
    ]
    drops = [CommitOperationDelete(name) for name in sorted(gone - files.keys())]
    return api.create_commit(
        **where,
        operations=[*changes, *drops],
        commit_message=message,
        create_pr=target.create_pr,
        parent_commit=before.sha,
    )


def _explain(error: Exception, target: Target) -> str:
    """One line for what kept a commit from being made."""
    name, said = target.repo_id, first_line(error).rstrip(".")
    for cause in hub.causes(error):
        if isinstance(cause, HfHubHTTPError) and not isinstance(cause, RepositoryNotFoundError):
            status = cause.response.status_code
            if status == 401:
                return f"{name}: the hub does not know this token: log in with 'hf auth login'"
            if status == 403:
                return (
                    f"{name}: the token in use may not write there: use one of its owner's that "
                    "may, or propose the change with --create-pr"
                )
            if status in (409, 412):
                return f"{name}: was changed by somebody else meanwhile: run again"
    if hub.is_unreachable(error):
        return f"{name}: the upload broke off ({said}): nothing was changed; run again to go on"
    known = hub.explain(error, name, target.revision, target.repo_type)
    return known or f"{name}: could not be sent ({said}): nothing was changed"
