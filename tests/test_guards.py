"""Guards against slow decay: settings, imports, docs and files stay what they say they are."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hydra._internal.utils import get_args_parser

from tests.conftest import REPO
from tiny_audio import hints
from tiny_audio.cli import app
from tiny_audio.compose import compose

SRC = REPO / "src" / "tiny_audio"
CONF = SRC / "conf"
MODULES = sorted(SRC.rglob("*.py"))
DOCS = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
MAX_LINES = 400


def tracked() -> list[Path]:
    """The files that belong to the repository, and exist."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the repository is not known")
    return [REPO / name for name in listed.stdout.split("\0") if name and (REPO / name).is_file()]


# ------------------------------------------------------------------------------------ settings


GROUPS = [
    [f"{name}={path.stem}" for path in sorted((CONF / name.strip("+")).glob("*.yaml"))]
    for name in ("model", "data", "training", "+experiments", "+data/eval")
]


@pytest.mark.parametrize("row", range(max(map(len, GROUPS))))
def test_every_yaml_composes(row: int) -> None:
    """Each group's options from top to bottom, the shorter groups over and over."""
    mix = [options[row % len(options)] for options in GROUPS]
    config = compose(mix)
    assert f"model={config.model.name}" in mix
    assert config.data.train
    assert config.data.eval


def test_every_setting_is_read_somewhere() -> None:
    """As an attribute, as a key, or as the parameter that it is handed to by its name."""
    keys = list(hints.schema_keys())
    read: set[str] = set()
    for path in MODULES:
        if path.name == "config.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case (
                    ast.Attribute(attr=name, ctx=ast.Load())
                    | ast.arg(arg=name)
                    | ast.Subscript(slice=ast.Constant(value=str(name)))
                    | ast.Call(
                        func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(name)), *_]
                    )
                ):
                    read.add(name)
                case ast.JoinedStr(values=[_, ast.Constant(value=str(name))]):
                    read |= {key.split(".")[-1] for key in keys if key.endswith(name)}
    for path in CONF.rglob("*.yaml"):  # one setting may be the short way to another
        read |= {key.split(".")[-1] for key in re.findall(r"\$\{([\w.]+)\}", path.read_text())}
    sections = {key.rpartition(".")[0] for key in keys}
    assert [key for key in keys if key not in sections and key.split(".")[-1] not in read] == []


# ------------------------------------------------------------------------------------- imports


def core_imports() -> set[str]:
    """The import names that the core dependencies of pyproject.toml bring."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[^\w-]", line)[0].replace("_", "-") for line in project["dependencies"]}
    providers = importlib.metadata.packages_distributions()
    return {"tokenizers", "yaml", "markupsafe"} | {  # parts of transformers, omegaconf, jinja2
        module
        for module, packages in providers.items()
        if wanted & {package.lower().replace("_", "-") for package in packages}
    }


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    """Root names of what importing a module imports, outside of functions and TYPE_CHECKING."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield (node.module or "").split(".")[0]
        pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def test_every_module_imports_with_core_dependencies_only() -> None:
    allowed = core_imports() | set(sys.stdlib_module_names) | {"tiny_audio"}
    for path in MODULES:
        foreign = set(imported_at_once(ast.parse(path.read_text()))) - allowed
        assert not foreign, f"{path.relative_to(SRC)} needs an extra at once: {foreign}"
        if path.name != "__main__.py":
            name = ".".join(path.relative_to(SRC.parent).with_suffix("").parts)
            importlib.import_module(name.removesuffix(".__init__"))


def test_the_tested_versions_and_the_lock_agree() -> None:
    """And no library of CUDA stands there twice: Poetry would install both, and torch crash."""
    locked: dict[str, set[str]] = {}
    for package in tomllib.loads((REPO / "poetry.lock").read_text())["package"]:
        locked.setdefault(package["name"], set()).add(package["version"])
    for line in (REPO / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            assert locked[re.sub(r"[-_.]+", "-", name).lower()] == {version}, line
    assert [name for name, had in locked.items() if len(had) > 1 and "nvidia" in name] == []


# ---------------------------------------------------------------------------------------- docs


def commands(path: Path) -> Iterator[str]:
    """Every `tiny-audio …` in a document: lines of code blocks, and code within the text."""
    text = path.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    for line in lines:
        if found := re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?(?:tiny-audio|ta) (.+)", line):
            yield found.group(1)


QUOTED = [(path.name, command) for path in DOCS for command in commands(path)]


def parse(command: str) -> None:
    """Parse a command line as the program would, without running it."""
    words = shlex.split(command, comments=True)
    if words[0] == "train":
        known = get_args_parser().parse_args(words[1:])
        compose(known.overrides)
        return
    group: Any = typer.main.get_command(app)
    while hasattr(group, "commands") and words and not words[0].startswith("-"):
        assert words[0] in group.commands, f"there is no command {words[0]}"
        group = group.commands[words.pop(0)]
    if words and words != ["--help"]:
        group.make_context("tiny-audio", words)


@pytest.mark.parametrize(("document", "command"), QUOTED, ids=[command for _, command in QUOTED])
def test_every_quoted_command_parses(document: str, command: str) -> None:
    assert parse(command) is None, document


def test_the_documents_quote_commands() -> None:
    assert len(QUOTED) > 10
    with pytest.raises(AssertionError, match="no command"):
        parse("transcibe FILE")


def test_the_file_map_is_the_tree() -> None:
    text = (REPO / "README.md").read_text().split("## Where things are")[1]
    block = re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    named = {
        (SRC if line.startswith(" ") else REPO) / line.split()[0].rstrip("/")
        for line in block.splitlines()
    }
    files = tracked()
    inside = {SRC / path.relative_to(SRC).parts[0] for path in files if SRC in path.parents}
    top = {REPO / path.relative_to(REPO).parts[0] for path in files}
    own = {"LICENSE", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "src"}
    top = {path for path in top if path.name not in own and not path.name.startswith(".")}
    assert all(path.exists() for path in named)
    assert not (inside | top) - named, "README's map leaves these out"


def test_links_in_documents_lead_somewhere() -> None:
    for document in DOCS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


# --------------------------------------------------------------------------------------- files


def test_no_path_of_a_machine_and_no_registry_is_named() -> None:
    home = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/\w+")
    registry = re.compile(r"\b(?:pypi\.(?:org|io)|files\.python" + r"hosted|download\.pytorch)\b")
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and pictures
        for pattern in (home, registry):
            assert not (found := pattern.search(text)), f"{path.relative_to(REPO)}: {found.group()}"


def test_files_and_functions_stay_short() -> None:
    for path in MODULES:
        text = path.read_text()
        assert text.count("\n") <= MAX_LINES, f"{path}: two thoughts in one file?"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno <= 60, f"{path}: {node.name}"
