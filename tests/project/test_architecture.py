"""Structure of the package: no import cycles, unique names, short files and parameter lists."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_LINES = 400
MAX_PARAMETERS = 8

SHARED_FILE_NAMES = {
    "base.py": "the protocol of engines, and that of optimizers",
    "costs.py": "measured costs of a problem, and stored costs of a run",
    "criteria.py": "the verb criteria, and the contract suite of criteria",
    "depthwise.py": "the decomposition of layers, and the method that searches for it",
    "events.py": "events of a search, and their stream over HTTP",
    "factory.py": "makes engines, and makes networks",
    "method.py": "one per method, in its folder",
    "records.py": "rows of the store, and results of a run",
    "results.py": "results in a terminal, and results as Python objects",
    "search.py": "verbs of the command line, and functions of the Python API",
    "spec.py": "one per method, in its folder",
}
"""File names that several modules share, with the reason."""

SHARED_CLASS_NAMES: dict[str, str] = {}
"""Class names that several modules share, with the reason."""

LONG_FILES: dict[str, str] = {}
"""Files above `MAX_LINES`, with the reason."""

LONG_PARAMETER_LISTS: dict[str, str] = {
    "blendsearch.data.splits.iter_batches": "the only door to images; all but three parameters have defaults",
}
"""Functions above `MAX_PARAMETERS`, as ``module.function``, with the reason."""


@cache
def parse_modules() -> dict[str, ast.Module]:
    """Parse every module of the package, by its dotted name."""
    paths = sorted((ROOT / "blendsearch").rglob("*.py"))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)
    return {name: ast.parse(path.read_text("utf-8")) for name, path in zip(names, paths, strict=True)}


def find_imports(tree: ast.Module, module: str) -> set[str]:
    """Find the package's modules that `tree` imports, also in functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{module} has a relative import"
            submodules = {f"{node.module}.{item.name}" for item in node.names} & parse_modules().keys()
            found |= submodules or {node.module}
    return (found & parse_modules().keys()) - {module}


def find_cycles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Find the strongly connected components of more than one node: nodes that reach each other."""
    reached: dict[str, set[str]] = {}
    for start in edges:
        waiting, reached[start] = [start], set()
        while waiting:
            for node in edges[waiting.pop()] - reached[start]:
                reached[start].add(node)
                waiting.append(node)
    components = {frozenset(other for other in reached[node] if node in reached[other]) for node in edges}
    return [set(component) for component in components if component]


def test_cycles_are_found() -> None:
    assert find_cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [{"a", "b", "c"}]


def test_no_import_cycles() -> None:
    cycles = find_cycles({name: find_imports(tree, name) for name, tree in parse_modules().items()})
    assert not [sorted(cycle) for cycle in cycles]


def test_no_two_files_share_a_name() -> None:
    paths = defaultdict(list)
    for path in sorted((ROOT / "blendsearch").rglob("*.py")):
        if path.name != "__init__.py":
            paths[path.name].append(path.relative_to(ROOT).as_posix())
    shared = {name: found for name, found in paths.items() if len(found) > 1}
    assert not {name: found for name, found in shared.items() if name not in SHARED_FILE_NAMES}


def test_no_two_classes_share_a_name() -> None:
    modules = defaultdict(list)
    for name, tree in parse_modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                modules[node.name.lstrip("_")].append(name)
    shared = {name: found for name, found in modules.items() if len(found) > 1}
    assert not {name: found for name, found in shared.items() if name not in SHARED_CLASS_NAMES}


def test_files_are_short() -> None:
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in (ROOT / "blendsearch").rglob("*.py")}
    long = {path.relative_to(ROOT).as_posix(): count for path, count in lines.items() if count > MAX_LINES}
    assert not {path: count for path, count in long.items() if path not in LONG_FILES}


def test_parameter_lists_are_short() -> None:
    long = {}
    for module, tree in parse_modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                parameters = node.args
                names = [item.arg for item in (*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs)]
                count = len([name for name in names if name not in ("self", "cls")])
                count += (parameters.vararg is not None) + (parameters.kwarg is not None)
                if count > MAX_PARAMETERS:
                    long[f"{module}.{node.name}"] = count
    assert not {name: count for name, count in long.items() if name not in LONG_PARAMETER_LISTS}
