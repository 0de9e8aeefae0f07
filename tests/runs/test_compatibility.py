"""Compatibility of runs with code, versions and devices. Comments do not count."""

import ast
import io
import json
import tokenize
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_files import front
from verbs import refused, run

from blendsearch.runs import compatibility
from blendsearch.runs.compatibility import find_differences, hash_code, strip_comments
from blendsearch.runs.run import open_run


def test_comments_docstrings_and_blank_lines_are_not_code() -> None:
    one = '"""About."""\nA = 1  # one\n"""Of A."""\n\n\ndef f(x):\n    """Says."""\n    return "# no comment" + x\n'
    other = 'A = 1\ndef f(x):\n    # nothing\n\n    return "# no comment" + x  # here\n'
    assert strip_comments(one) == strip_comments(other) == 'A = 1\ndef f(x):\n    return "# no comment" + x'
    assert (
        strip_comments(one)
        != strip_comments(one.replace("A = 1", "A = 2"))
        != strip_comments(one.replace("# no", "# some"))
    )
    assert hash_code("digits_net") == hash_code("torchvision:resnet18")


UNUSUAL_SOURCE = '''
A = r'\\\\'  # 'one'
B = 'it\\'s #1'  # "two"
C = """a "# b"" # c"""
D = ('x'  # y
     'z')
if A:
    \'\'\'Says\'\'\'
elif B:
    'again'
else:
    try:
        'inside'
    except ValueError:
        'caught'
    finally:
        'last'
match C:
    case 1:
        'one'
'''


def strip_with_tokenizer(text: str) -> str:
    """Strip comments and string statements by Python's tokenizer and all nodes of the syntax tree."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            last = node.end_lineno or node.lineno
            lines[node.lineno - 1 : last] = [""] * (last - node.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def test_comments_are_found_as_the_tokenizer_finds_them() -> None:
    package = Path(compatibility.__file__).parents[1]
    texts = [UNUSUAL_SOURCE, *(path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py")))]
    assert [strip_comments(text) for text in texts] == [strip_with_tokenizer(text) for text in texts]


def facts(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "run.json").read_text())
    return found


def stopped(folder: Path, name: str, **origin: Any) -> None:
    """Make the run `name` unfinished, with another provenance."""
    path = folder / name
    (path / "finished.json").unlink()
    held = facts(path)
    held["provenance"] |= origin
    (path / "run.json").write_text(json.dumps(held))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("code", "blendsearch's code has changed since the run started"),
        ("versions", "torch is"),
        ("device", "evaluations run on cpu and ran on cuda:0"),
    ],
)
def test_differences_that_change_results_are_refused_unless_accepted(
    kind: str, why: str, config_file: Path, tmp_path: Path, capsys: Any
) -> None:
    run("search", tmp_path, config_file, "--name", "one", "--set", "search.evaluations=12")
    found, held = front(tmp_path, "one", capsys), open_run(tmp_path, "one")
    packages = held.provenance["packages"]
    assert not find_differences(held, "cpu") and {"code"} == set(held.provenance["code"])
    other: dict[str, Any] = {
        "code": {"code": {"code": "0" * 64}},
        "versions": {"packages": packages | {"torch": "1.13.0+cu117", "ray": "1.0.0"}},
        "device": {"device": "cuda:0"},
    }[kind]
    stopped(tmp_path, "one", **other)
    before = facts(tmp_path / "one")
    for words in ([], ["--set", "search.evaluations=20"]):
        message = refused(capsys, "resume", tmp_path, "one", *words)
        assert why in message and f"--accept {kind}" in message and "fork" in message
    assert facts(tmp_path / "one") == before
    assert "not known" in refused(capsys, "resume", tmp_path, "one", "--accept", "everything")
    run("resume", tmp_path, "one", "--accept", kind)
    assert f"warning: accepted: {why}" in capsys.readouterr().err
    assert front(tmp_path, "one", capsys) == found
    (change,) = facts(tmp_path / "one")["changes"]
    assert why in change["accepted"][0]
    capsys.readouterr()
    run("fork", tmp_path, "one", "--name", "two", "--set", "search.evaluations=20")
    assert f"no evaluation is inherited, since {why}" in capsys.readouterr().out


def test_patches_of_versions_and_other_packages_may_differ(config_file: Path, tmp_path: Path) -> None:
    run("search", tmp_path, config_file, "--name", "one", "--set", "search.evaluations=12")
    packages = open_run(tmp_path, "one").provenance["packages"]
    parts = packages["torch"].split(".")
    stopped(tmp_path, "one", packages=packages | {"torch": ".".join([*parts[:2], "99+other"]), "scikit-learn": "0.1"})
    run("resume", tmp_path, "one")
    # a run from before anything of this was written down
    stopped(tmp_path, "one")
    held = facts(tmp_path / "one")
    for name in ("code", "scores_sha256"):
        del held["provenance"][name]
    (tmp_path / "one" / "run.json").write_text(json.dumps(held))
    run("resume", tmp_path, "one")
    assert open_run(tmp_path, "one").finished


def test_changed_scores_weights_and_factories_are_refused(
    quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from safetensors.numpy import load_file, save_file

    source = tmp_path / "own_net.py"
    source.write_text("from blendsearch.zoo.digits_net import digits_net as net\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    quick["model"]["factory"] = "own_net:net"
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick | {"search": {"evaluations": 12, "population": 8}}))
    run("search", tmp_path, path, "--name", "one")
    stopped(tmp_path, "one")
    for name, why in (("scores", "not the one its criteria gave"), ("dense", "not the one the run was made with")):
        file = tmp_path / "one" / f"{name}.safetensors"
        kept = file.read_bytes()
        arrays = load_file(file)
        first = sorted(arrays)[0]
        arrays[first] = arrays[first] * 2 + 1
        save_file(arrays, file)
        assert why in refused(capsys, "resume", tmp_path, "one")
        file.write_bytes(kept)
    source.write_text("# a comment\nfrom blendsearch.zoo.digits_net import digits_net as net\n")
    assert not find_differences(open_run(tmp_path, "one"), "cpu")
    source.write_text("from blendsearch.zoo.digits_net import digits_net as net\nEXTRA = 1\n")
    assert "own_net:net' has changed" in refused(capsys, "resume", tmp_path, "one")
    assert compatibility.KINDS == ("code", "factory", "versions", "device")
