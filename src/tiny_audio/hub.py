"""Files of the Hugging Face Hub: which are needed, from the cache where the hub cannot be reached,
and one line for each failure. Downloads, locks and continuation are those of `huggingface_hub`."""

from __future__ import annotations

import errno
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from tiny_audio.errors import HubError, first_line

logger = logging.getLogger(__name__)

# Everything to load a transformers model from but its weights, and the weights: `model.*`, not the
# copies in other formats or precisions that some repositories hold besides.
SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
MODEL_FILES = [*SMALL_FILES, "model.safetensors", "model-*-of-*.safetensors"]

_ASK_SECONDS = 10.0  # for the hub to say which commit a revision is
_COMMIT = re.compile(r"[0-9a-f]{40}")


def snapshot(repo_id: str, revision: str | None = None, *, files: list[str] | None = None) -> Path:
    """Return a folder with the files of a repository: a folder as it is, else of the cache.

    revision: commit, branch or tag; None: ``main``. files: patterns of what is needed; None:
    everything. The hub is not asked for a commit whose files are there. Where it cannot be reached,
    the newest files in the cache are used, and the log says so. Raises HubError: not there, not
    allowed, no space, or not in the cache and no network.
    """
    if Path(repo_id).is_dir():
        return Path(repo_id)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import OfflineModeIsEnabled, RevisionNotFoundError

    look = partial(cached, repo_id, revision, files=files)
    pinned = revision is not None and _COMMIT.fullmatch(revision) is not None
    if (pinned or HF_HUB_OFFLINE) and (found := look()):
        return found
    try:
        if HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        if not pinned:
            newest = HfApi().model_info(repo_id, revision=revision, timeout=_ASK_SECONDS)
            if (found := look()) and found.name == newest.sha:
                return found
        with bars(shown=files != SMALL_FILES and sys.stderr.isatty()):
            return Path(snapshot_download(repo_id, revision=revision, allow_patterns=files))
    except Exception as error:  # of httpx, huggingface_hub and the disk: no common base
        if isinstance(error, RevisionNotFoundError) or not (found := look()):
            fail(error, repo_id, revision)
        why = "be reached" if is_unreachable(error) else "be asked"
        logger.warning(
            f"The hub cannot {why} ({first_line(error).rstrip('.')}): {repo_id} comes from the "
            f"cache, commit {found.name[:8]}"
        )
        return found


@contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Let the client show progress or not; a user's HF_HUB_DISABLE_PROGRESS_BARS counts more."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    hide = not shown and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def cached(
    repo_id: str, revision: str | None, *, files: list[str] | None, repo_type: str = "model"
) -> Path | None:
    """Return what ``snapshot`` would, from the cache alone; None where a file is missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        wanted = partial(snapshot_download, repo_id, revision=revision, repo_type=repo_type)
        found = Path(wanted(allow_patterns=files, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
    if files in (None, MODEL_FILES):
        # Where files came one by one, for another program, the client cannot say if they are all.
        whole = has_weights(found) and (found / "tokenizer_config.json").is_file()
        return found if whole else None
    return found


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, ``user/name``."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def commit_of(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def is_unreachable(error: BaseException) -> bool:
    """Whether the network or the server failed, as opposed to the server having said no."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    for cause in causes(error):
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            return status == 429 or status >= 500
        httpx_error = HfHubHTTPError.__bases__[0]  # by whichever name it goes
        if isinstance(cause, (OfflineModeIsEnabled, ConnectionError, TimeoutError, httpx_error)):
            return True
    return isinstance(error, LocalEntryNotFoundError)


def fail(error: Exception, repo_id: str, revision: str | None = None) -> NoReturn:
    """Raise a HubError with the line of ``explain``; where it has none, the error itself."""
    message = explain(error, repo_id, revision)
    if message is None:
        raise error
    raise HubError(message) from error


def explain(
    error: BaseException, repo_id: str, revision: str | None = None, repo_type: str = "model"
) -> str | None:
    """One line for a failure of the hub, its client or the disk; None where it is neither."""
    from huggingface_hub import errors, get_token
    from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE

    page = f"{ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
    login = "log in with 'hf auth login' or set HF_TOKEN"
    if get_token():
        login = "the token in use does not open it"
    for cause in causes(error):
        match cause:
            case errors.GatedRepoError():
                then = "" if get_token() else "then "
                what = f"is gated: accept its terms on {page}, {then}{login}"
            case errors.RepositoryNotFoundError() | errors.HFValidationError():
                what = f"there is no such {repo_type} on the hub, or it is private"
                what += f": check the name; for a private one, {login}"
            case errors.RevisionNotFoundError():
                what = f"has no revision '{revision}': see {page}/commits/main"
            case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
                what = _not_cached(repo_id, revision, repo_type, cause)
            case OSError(errno=errno.ENOSPC | errno.EDQUOT):
                what = f"no space left in {HF_HUB_CACHE}: free some, or set HF_HOME to a folder "
                what += "on another disk; what has come is kept"
            case OSError(errno=errno.EACCES | errno.EROFS):
                what = f"{HF_HUB_CACHE} cannot be written: set HF_HOME to another folder"
            case errors.HfHubHTTPError():
                status = f"{cause.response.status_code} {cause.response.reason_phrase}".strip()
                what = f"the hub answers {status}: try again later"
            case _ if type(cause).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError"):
                what = _not_cached(repo_id, revision, repo_type, cause)  # httpx's
            case _:
                continue
        return f"{repo_id}: {what}"
    if is_unreachable(error):
        why = first_line(error).rstrip(".")
        return f"{repo_id}: the download broke off ({why}); run again to go on"
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, the newest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def weight_names(folder: Path) -> list[str]:
    """Names of the safetensors files of a model, by its index where it has one."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise HubError(f"{index}: is damaged ({error}); delete it and run again") from None


def has_weights(folder: Path) -> bool:
    """Whether all of them are there."""
    return all((folder / name).is_file() for name in weight_names(folder))


def _not_cached(repo_id: str, revision: str | None, repo_type: str, error: BaseException) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    kind = " --repo-type dataset" if repo_type == "dataset" else ""
    at = f" --revision {revision}" if revision is not None else ""
    other = "; model=nano needs no download" if repo_type == "model" else ""
    away = f"the hub cannot be reached ({first_line(error).rstrip('.')})"
    why = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else away
    fetch = f"where there is a network, fetch it with 'hf download {repo_id}{kind}{at}'"
    return f"is not in the cache {HF_HUB_CACHE} and {why}: {fetch}{other}"
