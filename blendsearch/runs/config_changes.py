"""Changing the config of a run that has begun: only what cannot change anything that was already judged."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from blendsearch.errors import ConfigError
from blendsearch.runs.checkpoint import write_atomically
from blendsearch.runs.config.loading import apply_overrides, dump_config, parse_config
from blendsearch.runs.config.schema import Config
from blendsearch.runs.run import Run, open_run

CHANGEABLE = ("search.evaluations", "engine.", "promote.", "finals.")
"""Fields, or the sections they are in, that say how long, where, and what comes after the search."""

FINE_TUNE_FIELDS = ("finals.tuning", "finals.distillation", "finals.workers")
"""Fields that the results of long fine-tunes depend on; the number of workers by what each of them draws at random."""


def change_config(run: Run, overrides: Sequence[str]) -> Run:
    """`run` with `section.field=value` overrides written into it, no longer finished; the caller holds its lock.

    Raises ConfigError, and changes nothing, for a field that decides what was already judged, and for fewer evaluations
    than have been asked for.
    """
    tree = run.config.model_dump(mode="json")
    config = parse_config(apply_overrides(tree, overrides), f"run {run.name}")
    fields = dict(diff_configs(run.config.model_dump(mode="json"), config.model_dump(mode="json")))
    _check(run, config, fields)
    if not fields:
        return run
    # in this order: a crash in between leaves an unfinished run, which resuming finishes as it was
    (run.path / "finished.json").unlink(missing_ok=True)
    _note(run, {"fields": fields}, config)
    write_atomically(run.path / "config.yaml", dump_config(config))
    return open_run(run.path.parent, run.name)


def note_accepted(run: Run, differences: Sequence[str]) -> None:
    """Write down in ``run.json`` that the run goes on in spite of these."""
    _note(run, {"accepted": list(differences)}, run.config)


def _note(run: Run, change: dict[str, Any], config: Config) -> None:
    facts = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    facts["config"] = config.model_dump(mode="json")
    past = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **change}
    facts["changes"] = [*facts.get("changes", []), past]
    write_atomically(run.path / "run.json", json.dumps(facts, indent=1))


def _check(run: Run, config: Config, fields: dict[str, Any]) -> None:
    with run.open_store(read_only=True) as store:
        finals, promotions, tests = store.read_finals(), store.read_promotions(), store.read_tests()
        asked = max((row.id for row in store.read_evaluations()), default=0)
    for field in fields:
        if not field.startswith(CHANGEABLE):
            raise ConfigError(
                f"{field} cannot be changed in run {run.name!r}: what it has judged was judged by the old value; start "
                "another run, or change only search.evaluations, engine, promote and finals"
            )
        if field.startswith("promote.") and field != "promote.share" and promotions:
            raise ConfigError(
                f"{field} cannot be changed in run {run.name!r}: {len(promotions)} networks were judged again "
                "by the old "
                "value; start another run"
            )
        if field.startswith(FINE_TUNE_FIELDS) and finals:
            raise ConfigError(
                f"{field} cannot be changed in run {run.name!r}: {len(finals)} networks were fine-tuned by the old "
                "value; start another run"
            )
    promote = config.promote
    if promote != run.config.promote and promote.share and promote.fidelity != config.fitness.fidelity and tests:
        raise ConfigError(
            f"promote cannot be changed in run {run.name!r}: {len(tests)} networks were tested as "
            f"{config.fitness.fidelity}; fork it, or take promote.fidelity={config.fitness.fidelity} on unused images"
        )
    if "search.evaluations" in fields and config.search.evaluations < asked:
        raise ConfigError(
            f"search.evaluations={config.search.evaluations} is less than run {run.name!r} has asked for already, "
            f"{asked}: give a larger number"
        )


def diff_configs(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Fields that differ, with the old value and the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from diff_configs(old.get(name), new.get(name), f"{place}.{name}" if place else name)
    elif old != new:
        yield place, [old, new]
