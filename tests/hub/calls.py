"""A request to the hub in a box as its answers see it, and what an answer is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlencode

from tests.hub.store import Commit, Repo

if TYPE_CHECKING:
    from tests.hub.server import Hub


@dataclass
class Answer:
    """Status, headers and body: bytes, a blob (which may be sent in part), or what goes as JSON."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class HubError(Exception):
    """An answer that says what is wrong, in the body and in the headers that clients read."""

    def __init__(
        self, status: int, message: str, code: str | None = None, retry_after: float | None = None,
        **headers: str,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers)
        if code:
            self.headers["X-Error-Code"] = code
        if retry_after is not None:
            self.headers["Retry-After"] = f"{retry_after:g}"

    def answer(self) -> Answer:
        headers = {"X-Error-Message": self.message, **self.headers}
        return Answer({"error": self.message}, self.status, headers)


@dataclass
class Call:
    """A request as the answers see it; `changed` holds the content that a fault puts in place."""

    hub: Hub
    method: str
    path: str  # as it came: "/" inside a name is encoded
    query: str
    headers: Message
    body: bytes | Path
    changed: tuple[bytes | None] | None = None

    @property
    def parts(self) -> list[str]:
        return [unquote(part) for part in self.path.strip("/").split("/")]

    @property
    def params(self) -> dict[str, list[str]]:
        return parse_qs(self.query)

    def flag(self, name: str) -> bool:
        """Whether a parameter of the address is set."""
        return self.params.get(name, [""])[0].lower() in ("1", "true")

    @property
    def user(self) -> str | None:
        """Who asks; None without a token. A token that is not valid is an error."""
        kind, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if not token:
            return None
        if kind.lower() != "bearer" or token not in self.hub.users:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.users[token]

    def json(self) -> dict[str, Any]:
        """The body as an object."""
        try:
            found = json.loads(self.body or b"{}")  # type: ignore[arg-type]
        except ValueError:
            raise HubError(400, "Invalid JSON") from None
        return found if isinstance(found, dict) else {}

    # ---------------------------------------------------------------------------- permissions

    def repo(self, kind: str, repo_id: str) -> Repo:
        """A repository that the user may know of."""
        repo = self.hub.repos.get((kind, repo_id))
        user = self.user
        if repo is None or (repo.private and user != repo.owner and user not in repo.granted):
            if user is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    def check_gate(self, repo: Repo) -> None:
        """Raise unless the user may read the files."""
        user = self.user
        if not repo.gated or user == repo.owner or user in repo.granted:
            return
        name = f"{repo.type} {repo.id}"
        if user is None:
            raise HubError(
                401,
                f"Access to {name} is restricted. You must have access to it and be authenticated "
                "to access it. Please log in.",
                "GatedRepo",
            )
        raise HubError(
            403,
            f"Access to {name} is restricted and you are not in the authorized list. "
            f"Visit {self.hub.url}/{repo.prefix}{repo.id} to ask for access.",
            "GatedRepo",
        )

    def check_write(self, repo: Repo, hint: str = "") -> str:
        """The user; raises unless he may write."""
        user = self.user
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if user != repo.owner:
            raise HubError(403, f"You don't have write access to {repo.id}{hint}")
        return user

    def commit(self, repo: Repo, revision: str) -> Commit:
        """The commit of a revision."""
        found = repo.find(revision)
        if found is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def page(self, entries: list[Any]) -> Answer:
        """One page of a listing, with a link to the next."""
        start = int(self.params.get("cursor", ["0"])[0])
        stop = start + self.hub.page_size
        headers = {}
        if stop < len(entries):
            query = urlencode({**self.params, "cursor": [stop]}, doseq=True)
            headers["Link"] = f'<{self.hub.url}{self.path}?{query}>; rel="next"'
        return Answer(entries[start:stop], 200, headers)
