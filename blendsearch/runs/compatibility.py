"""Compatibility of a run with the current code, package versions and device.

Only differences that can change the results of a resumed search count. Comments and pages may change. Scores are
stored, so criteria may change too.
"""

import ast
import hashlib
import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from blendsearch.errors import ConfigError, RunError
from blendsearch.runs.provenance import get_installed_version
from blendsearch.runs.run import Run
from blendsearch.user_code import find_user_module

HASHED_PACKAGES = ("structure", "blend", "data", "fitness", "zoo", "pipeline")
"""Layers whose code determines cuts, evaluations and candidates."""

COMPARED_PACKAGES = ("torch", "numpy", "deap")
"""Packages whose versions change results; torchvision is added for networks of torchvision."""

KINDS = ("code", "factory", "versions", "device")

STRING_OR_COMMENT = re.compile(
    r'''"""(?:[^"\\]++|\\.|"(?!""))*+"""|'{3}(?:[^'\\]++|\\.|'(?!''))*+'{3}|"(?:[^"\\\n]++|\\.)*+"|'(?:[^'\\\n]++|\\.)*+'|#[^\n]*+''',
    re.DOTALL,
)
"""A string literal without its prefix, or a comment. Much faster than the tokenizer of Python."""

STATEMENT_FIELDS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Fields of syntax nodes that hold statements."""


class Difference(NamedTuple):
    """A difference between start and now: its kind, one of `KINDS`, and a description."""

    kind: str
    text: str


def hash_code(factory: str) -> dict[str, str]:
    """Compute SHA-256 of the code that determines results and of the model factory's file, comments stripped."""
    found = {"code": hash_own_code()}
    module = factory.rpartition(":")[0]
    if module and module not in ("torchvision", "timm"):
        spec = find_user_module(module)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            text = Path(spec.origin).read_text(encoding="utf-8")
            found["factory"] = hashlib.sha256(strip_comments(text).encode()).hexdigest()
    return found


@cache  # the imported code runs, even if the files change later
def hash_own_code() -> str:
    """Compute SHA-256 of the code that determines results, comments stripped; it takes some tenths of a second."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for layer in HASHED_PACKAGES:
        for path in sorted((package / layer).rglob("*.py")):
            digest.update(
                f"{path.relative_to(package).as_posix()}\n{strip_comments(path.read_text(encoding='utf-8'))}".encode()
            )
    return digest.hexdigest()


def check_compatible(run: Run, device: str, accepted: Collection[str] = ()) -> list[Difference]:
    """Find differences. Raises RunError for a kind that is not `accepted`, ConfigError for an unknown kind."""
    for kind in accepted:
        if kind not in KINDS:
            raise ConfigError(f"--accept {kind!r} is not known: expected some of {', '.join(KINDS)}")
    found = find_differences(run, device)
    refused = [item for item in found if item.kind not in accepted]
    if refused:
        kinds = ",".join(dict.fromkeys(item.kind for item in refused))
        raise RunError(
            f"run {run.name!r} cannot be resumed with the same result: {'; '.join(item.text for item in refused)}; "
            f"restore that, fork the run, or resume anyway with --accept {kinds}"
        )
    return found


def find_differences(run: Run, device: str) -> list[Difference]:
    """Find differences in code, versions and `device` since `run` started; facts it did not store count as equal."""
    origin = run.provenance
    found = []
    factory = run.config.model.factory
    then, now = origin.get("code", {}), hash_code(factory)
    if then.get("code", now["code"]) != now["code"]:
        commit = f" (commit {origin['git'][:12]})" if origin.get("git") else ""
        found.append(Difference("code", f"blendsearch's code has changed since the run started{commit}"))
    if "factory" in then and then["factory"] != now.get("factory"):
        found.append(Difference("factory", f"the file of the model factory {factory!r} has changed"))
    names = (*COMPARED_PACKAGES, "torchvision") if factory.startswith("torchvision:") else COMPARED_PACKAGES
    for name in names:
        old, new = origin["packages"].get(name), get_installed_version(name)
        # patch releases and build suffixes are ignored
        if old is not None and old.split(".")[:2] != new.split(".")[:2]:
            found.append(Difference("versions", f"{name} is {new} and was {old}"))
    before = origin["device"].partition(":")[0]
    if before != device.partition(":")[0]:
        found.append(Difference("device", f"evaluations run on {device} and ran on {origin['device']}"))
    return found


def strip_comments(text: str) -> str:
    """Strip comments, docstrings and blank lines from Python source, equally under every version of Python."""
    code = STRING_OR_COMMENT.sub(lambda found: "" if found[0].startswith("#") else found[0], text)
    lines = code.splitlines()
    for first, last in _find_docstrings(ast.parse(text)):
        lines[first - 1 : last] = [""] * (last - first + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _find_docstrings(node: ast.AST) -> Iterator[tuple[int, int]]:
    """Yield first and last line of every string statement: docstrings, and those below a constant."""
    for name in STATEMENT_FIELDS:
        for child in getattr(node, name, ()):
            if isinstance(child, ast.Expr):
                value = child.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield child.lineno, child.end_lineno or child.lineno
            else:
                yield from _find_docstrings(child)
