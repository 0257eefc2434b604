"""What a hub holds: repositories, their commits, and files by what is in them."""

import hashlib
import io
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Self

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


class File:
    """The bytes of a file, in memory or on disk, and whether they are an LFS object."""

    def __init__(self, source: bytes | Path, *, lfs: bool) -> None:
        self.source, self.lfs = source, lfs
        self.size = len(source) if isinstance(source, bytes) else source.stat().st_size

    @classmethod
    def at(cls, path: str, source: bytes | Path) -> Self:
        """A file as the hub would keep it under this path."""
        file = cls(source, lfs=False)
        with file.open() as opened:
            file.lfs = is_lfs(path, file.size, opened.read(512))
        return file

    def open(self) -> BinaryIO:
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")

    def read(self) -> bytes:
        with self.open() as file:
            return file.read()

    @cached_property
    def etag(self) -> str:
        """The sha256 of an LFS object, or git's own hash of a file."""
        kind, head = ("sha256", b"") if self.lfs else ("sha1", b"blob %d\0" % self.size)
        with self.open() as file:
            return hashlib.file_digest(file, lambda: hashlib.new(kind, head)).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Its `oid`, `size` and `lfs`, as the hub's listings have them."""
        if not self.lfs:
            return {"oid": self.etag, "size": self.size}
        head = "version https://git-lfs.github.com/spec/v1"
        pointer = File(f"{head}\noid sha256:{self.etag}\nsize {self.size}\n".encode(), lfs=False)
        lfs = {"oid": self.etag, "size": self.size, "pointerSize": pointer.size}
        return {"oid": pointer.etag, "size": self.size, "lfs": lfs}


def is_lfs(path: str, size: int, head: bytes) -> bool:
    """Whether the hub keeps a file as an LFS object; `head` is how the file begins."""
    return size > 0 and (Path(path).suffix in LFS_SUFFIXES or size > LFS_SIZE or b"\0" in head)


@dataclass(frozen=True)
class Commit:
    parent: "Commit | None"
    files: Mapping[str, File]
    title: str
    message: str = ""
    author: str = "someone"
    sha: str = field(default_factory=lambda: secrets.token_hex(20))
    date: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.000Z}")

    def history(self) -> Iterator["Commit"]:
        """This commit and those before it, the newest first."""
        commit = self
        while commit is not None:
            yield commit
            commit = commit.parent

    def below(self, path: str) -> dict[str, File]:
        prefix = f"{path}/" if path else ""
        return {p: f for p, f in self.files.items() if p == path or p.startswith(prefix)}

    def last_change(self, path: str) -> "Commit":
        """The newest commit that changed a file or what is in a folder."""
        newer = self
        for older in self.history():
            if older.below(path) != self.below(path):
                break
            newer = older
        return newer


@dataclass
class Repo:
    """A repository. Its refs are `refs/heads/BRANCH`, `refs/tags/TAG` and `refs/pr/NUMBER`."""

    id: str
    type: str
    private: bool = False
    gated: bool | str = False
    refs: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    granted: set[str] = field(default_factory=set)  # users who may read though they do not own it
    objects: dict[str, File] = field(default_factory=dict)  # sha256 -> uploaded LFS object

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def address(self) -> str:
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    def readable_by(self, user: str | None) -> bool:
        return user == self.owner or user in self.granted

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag, a whole ref or a hash."""
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        found = (self.refs[name] for name in names if name in self.refs)
        return next(found, self.commits.get(revision))

    def commit(
        self, ref: str, parent: Commit | None, changes: Mapping[str, File | None], **about: str
    ) -> Commit:
        """Put files, or remove those that are None, in a new commit, where `ref` points then."""
        files = {**(parent.files if parent else {}), **changes}
        kept = {path: file for path, file in files.items() if file is not None}
        made = Commit(parent, kept, **about)
        self.commits[made.sha] = self.refs[ref] = made
        return made


def front_matter(text: str) -> dict[str, Any]:
    """The YAML at the top of a card, {} where there is none; raises yaml.YAMLError."""
    if not text.startswith("---\n") or "\n---" not in text[3:]:
        return {}
    found = yaml.safe_load(text[4:].split("\n---")[0])
    if not isinstance(found, dict):
        raise yaml.YAMLError("the metadata is no mapping")
    return found
