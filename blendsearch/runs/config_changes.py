"""Changes to the config of an existing run, restricted to fields that affect no stored evaluation."""

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict

from blendsearch.errors import ConfigError, RunError
from blendsearch.runs.checkpoint import write_atomically
from blendsearch.runs.config.loading import apply_overrides, dump_config, parse_config, parse_stored_config
from blendsearch.runs.config.schema import Config
from blendsearch.runs.parsing import MAX_YAML_BYTES, ParsingError, read_json, read_text
from blendsearch.runs.run import Run, open_run

CHANGEABLE = ("search.evaluations", "engine.", "promote.", "finals.", "ladder.cost", "ladder.finalists")
"""Fields, or their sections, that set the length of the search, its engine, and the trainings of its networks."""

FINE_TUNE_FIELDS = ("finals.tuning", "finals.distillation", "finals.workers", "finals.stages", "finals.staging")
"""Fields that determine the results of long fine-tunes. The number of workers decides their random streams."""


class FieldChanges(TypedDict):
    """An entry of `changes` in ``run.json``: fields with their old and new values."""

    fields: dict[str, list[Any]]


class AcceptedDifferences(TypedDict):
    """An entry of `changes` in ``run.json``: differences that the user accepted."""

    accepted: list[str]


def change_config(run: Run, overrides: Sequence[str]) -> Run:
    """Write `section.field=value` overrides into `run`, and mark it as unfinished. The caller holds its lock.

    Raises ConfigError, and changes nothing, for a field that affects stored evaluations, and for fewer evaluations than
    have been requested.
    """
    tree = run.config.model_dump(mode="json")
    config = parse_config(apply_overrides(tree, overrides), f"run {run.name}")
    fields = dict(diff_configs(run.config.model_dump(mode="json"), config.model_dump(mode="json")))
    _check(run, config, fields)
    if not fields:
        return run
    # in this order: a crash in between leaves an unfinished run, which `resume` finishes
    _remove_finish_mark(run)
    _note(run, {"fields": fields}, config)
    write_atomically(run.path / "config.yaml", dump_config(config))
    return open_run(run.path.parent, run.name)


def note_accepted(run: Run, differences: Sequence[str]) -> None:
    """Record in ``run.json`` that the run is resumed despite these differences."""
    _note(run, {"accepted": list(differences)}, run.config)


def _remove_finish_mark(run: Run) -> None:
    path = run.path / "finished.json"
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{path} cannot be removed ({error.strerror}): remove it by hand, and resume") from error


def _note(run: Run, change: FieldChanges | AcceptedDifferences, config: Config) -> None:
    facts = read_json(run.path / "run.json")
    facts["config"] = config.model_dump(mode="json")
    past = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **change}
    if not isinstance(facts.setdefault("changes", []), list):
        raise RunError(f"{run.path / 'run.json'} is damaged (changes is no list): restore it from a copy")
    facts["changes"].append(past)
    write_atomically(run.path / "run.json", json.dumps(facts, indent=1))


def _check(run: Run, config: Config, fields: Collection[str]) -> None:
    with run.open_store(read_only=True) as store:
        finals, promotions, tests = store.read_finals(), store.read_promotions(), store.read_tests()
        rungs = {item.digest for item in store.read_rungs()}
        asked = store.read_last_id()
    for field in fields:
        if not field.startswith(CHANGEABLE):
            raise ConfigError(
                f"{field} cannot be changed in run {run.name!r}: its evaluations used the old value; start another "
                "run, or change only search.evaluations, engine, promote, finals, and ladder.cost or ladder.finalists"
            )
        if field.startswith("promote.") and field != "promote.share" and promotions:
            raise ConfigError(
                f"{field} cannot be changed in run {run.name!r}: {len(promotions)} networks were promoted with the "
                "old value; start another run"
            )
        trained = len(finals) or len(rungs)
        if (field.startswith(FINE_TUNE_FIELDS) and trained) or (field.startswith("finals.probe") and rungs):
            raise ConfigError(
                f"{field} cannot be changed in run {run.name!r}: {trained} networks were fine-tuned with the "
                "old value; start another run"
            )
    promote = config.promote
    if promote != run.config.promote and promote.share and promote.fidelity != config.fitness.fidelity and tests:
        raise ConfigError(
            f"promote cannot be changed in run {run.name!r}: {len(tests)} networks were tested as "
            f"{config.fitness.fidelity}; fork it, or take promote.fidelity={config.fitness.fidelity} on unused images"
        )
    if "search.evaluations" in fields and config.search.evaluations < asked:
        raise ConfigError(
            f"search.evaluations={config.search.evaluations} is less than run {run.name!r} has already "
            f"requested, {asked}: set a larger number"
        )


def check_config_copy(run: Run) -> None:
    """Raise RunError where the ``config.yaml`` of `run` was edited: it is a copy, and the run keeps its settings."""
    try:
        from blendsearch.runs.yaml_parsing import parse_yaml

        written = parse_yaml(read_text(run.path / "config.yaml", MAX_YAML_BYTES))
    except (OSError, ParsingError):
        return  # missing or unreadable: nothing that could be mistaken for other settings
    recorded = run.config.model_dump(mode="json")
    try:
        edited = parse_stored_config(written, "config.yaml").model_dump(mode="json")
    except ConfigError:
        edited = written
    changed = [f"{field} is {new}, recorded as {old}" for field, (old, new) in diff_configs(recorded, edited)]
    if changed:
        raise RunError(
            f"config.yaml of run {run.name!r} was edited ({'; '.join(changed[:3])}): it is a copy that is not read; "
            "use resume --set or fork to change settings, and delete the edited file"
        )


def diff_configs(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield fields that differ, with the old and the new value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from diff_configs(old.get(name), new.get(name), f"{place}.{name}" if place else name)
    elif old != new:
        yield place, [old, new]
