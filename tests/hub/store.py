"""What a hub holds: repositories, their commits, and files by what is in them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

# Where the hub keeps files as LFS objects whatever their size, as in its own .gitattributes.
LFS_SUFFIXES = frozenset(
    ".7z .arrow .bin .bz2 .ckpt .flac .gz .h5 .model .mp3 .msgpack .npy .npz .onnx .ot .parquet "
    ".pb .pickle .pkl .pt .pth .safetensors .tar .tflite .tgz .wav .xz .zip .zst".split()
)
LFS_SIZE = 10 << 20
GITATTRIBUTES = "".join(
    f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LFS_SUFFIXES)
).encode()


class Blob:
    """The bytes of a file, in memory or on disk; hashed once, when a hash is first asked for."""

    def __init__(self, source: bytes | Path, sha256: str | None = None) -> None:
        self.source = source
        self.size = len(source) if isinstance(source, bytes) else source.stat().st_size
        self._hashes: dict[str, str] = {"sha256": sha256} if sha256 else {}
        self._lock = threading.Lock()

    def blocks(self, start: int = 0, stop: int | None = None, step: int = 1 << 20) -> Iterator[Any]:
        """The bytes from `start` to `stop` (all that follow) in blocks."""
        stop = self.size if stop is None else stop
        if isinstance(self.source, bytes):
            for at in range(start, stop, step):
                yield memoryview(self.source)[at : min(at + step, stop)]
            return
        with self.source.open("rb") as file:
            file.seek(start)
            while start < stop:
                block = file.read(min(step, stop - start))
                if not block:
                    raise OSError(f"{self.source} is shorter than it was")
                start += len(block)
                yield block

    def read(self) -> bytes:
        """All of it."""
        return b"".join(self.blocks())

    @property
    def sha256(self) -> str:
        """The name of an LFS object."""
        return self._hash("sha256", b"")

    @property
    def sha1(self) -> str:
        """The name of a git blob."""
        return self._hash("sha1", b"blob %d\0" % self.size)

    def _hash(self, kind: str, head: bytes) -> str:
        with self._lock:
            if kind not in self._hashes:
                value = hashlib.new(kind, head)
                for block in self.blocks():
                    value.update(block)
                self._hashes[kind] = value.hexdigest()
            return self._hashes[kind]


class OtherBlob(Blob):
    """A blob of the same length in which every byte is another."""

    _TABLE = bytes((value + 1) % 256 for value in range(256))

    def __init__(self, blob: Blob) -> None:
        super().__init__(blob.source)

    def blocks(self, start: int = 0, stop: int | None = None, step: int = 1 << 20) -> Iterator[Any]:
        for block in super().blocks(start, stop, step):
            yield bytes(block).translate(self._TABLE)


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    blob: Blob
    lfs: bool

    @classmethod
    def of(cls, path: str, content: bytes | Path | Blob) -> File:
        """A file as the hub would keep it: large and binary ones as LFS objects."""
        blob = content if isinstance(content, Blob) else Blob(content)
        return cls(blob, is_lfs(path, blob.size, next(iter(blob.blocks(step=512)), b"")))

    @property
    def etag(self) -> str:
        """What the hub sends as the file's ETag."""
        return self.blob.sha256 if self.lfs else self.blob.sha1

    @property
    def pointer(self) -> bytes:
        """What git holds in place of an LFS object."""
        head = "version https://git-lfs.github.com/spec/v1"
        return f"{head}\noid sha256:{self.blob.sha256}\nsize {self.blob.size}\n".encode()

    def describe(self) -> dict[str, Any]:
        """Its `oid`, `size` and `lfs`, as the hub's answers have them."""
        if not self.lfs:
            return {"oid": self.blob.sha1, "size": self.blob.size}
        lfs = {"oid": self.blob.sha256, "size": self.blob.size, "pointerSize": len(self.pointer)}
        return {"oid": Blob(self.pointer).sha1, "size": self.blob.size, "lfs": lfs}


def is_lfs(path: str, size: int, head: Any) -> bool:
    """Whether the hub keeps a file as an LFS object; `head` is how the file begins."""
    return size > 0 and (
        Path(path).suffix in LFS_SUFFIXES or size > LFS_SIZE or b"\0" in bytes(head)
    )


@dataclass(frozen=True)
class Commit:
    """A state of a repository. `changed` is path -> the commit that last changed it."""

    sha: str
    parent: Commit | None
    files: Mapping[str, File]
    changed: Mapping[str, Commit]
    title: str
    message: str
    author: str
    date: str

    def history(self) -> Iterator[Commit]:
        """This commit and those before it, the newest first."""
        commit: Commit | None = self
        while commit is not None:
            yield commit
            commit = commit.parent

    def folders(self) -> dict[str, str]:
        """Every folder's path and a name for what is in it."""
        inside: dict[str, list[str]] = {}
        for path, file in sorted(self.files.items()):
            for parent in list(Path(path).parents)[:-1]:
                inside.setdefault(parent.as_posix(), []).append(f"{path} {file.etag}")
        return {
            path: hashlib.sha1("\n".join(lines).encode()).hexdigest()
            for path, lines in inside.items()
        }


@dataclass
class Repo:
    """A repository with its branches, tags and pull requests (number -> commit)."""

    id: str
    type: str
    private: bool = False
    gated: bool | str = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    pulls: dict[int, Commit] = field(default_factory=dict)
    granted: set[str] = field(default_factory=set)
    objects: dict[str, Blob] = field(
        default_factory=dict
    )  # sha256 -> uploaded, perhaps in no commit

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def prefix(self) -> str:
        """What stands before the id in an address."""
        return "" if self.type == "model" else f"{self.type}s/"

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag, `refs/pr/N` or a hash."""
        if revision.startswith("refs/pr/") and revision[8:].isdigit():
            return self.pulls.get(int(revision[8:]))
        revision = revision.removeprefix("refs/heads/")
        return self.branches.get(revision) or self.tags.get(revision) or self.commits.get(revision)

    def commit(
        self,
        changes: Mapping[str, File | None],
        *,
        parent: Commit | None,
        title: str,
        message: str = "",
        author: str = "someone",
    ) -> Commit:
        """Add a commit that puts or (None) removes files; no branch is moved."""
        files = dict(parent.files) if parent else {}
        changed = dict(parent.changed) if parent else {}
        for path, file in changes.items():
            files.pop(path, None)
            changed.pop(path, None)
            if file is not None:
                files[path] = file
        # Large files are named by their sizes here, so that making a commit need not read them.
        said = [self.type, self.id, parent.sha if parent else "", title, str(len(self.commits))]
        for path, file in sorted(files.items()):
            small = isinstance(file.blob.source, bytes)
            said.append(f"{path} {file.blob.sha1 if small else file.blob.size}")
        sha = hashlib.sha1(json.dumps(said).encode()).hexdigest()
        date = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        commit = Commit(sha, parent, files, changed, title, message, author, date)
        changed |= {path: commit for path, file in changes.items() if file is not None}
        self.commits[sha] = commit
        return commit

    def card(self, commit: Commit) -> dict[str, Any] | None:
        """The YAML at the top of README.md."""
        readme = commit.files.get("README.md")
        return front_matter(readme.blob.read().decode()) if readme else None


def front_matter(text: str) -> dict[str, Any] | None:
    """The YAML at the top of a card; raises yaml.YAMLError."""
    if not text.startswith("---\n") or "\n---" not in text[3:]:
        return None
    found = yaml.safe_load(text[4:].split("\n---")[0])
    if not isinstance(found, dict):
        raise yaml.YAMLError("the metadata is no mapping")
    return found
