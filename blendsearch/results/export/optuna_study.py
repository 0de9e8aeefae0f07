"""A run as an Optuna study: one trial per evaluated network, for Optuna's plots, importances and dashboard."""

from typing import TYPE_CHECKING, Any

from blendsearch.errors import RunError
from blendsearch.extras import format_missing
from blendsearch.results.network import make_group_reader
from blendsearch.runs.origin import Origin
from blendsearch.runs.pareto import select_evaluated
from blendsearch.runs.run import Run

if TYPE_CHECKING:
    import optuna


def export_study(run: Run, storage: str | None = None, name: str | None = None) -> "optuna.Study":
    """Make a study of the networks of `run`: their kept channels as parameters, loss and cost as values.

    At one budget the value is the validation loss; over a range, loss and share of MACs are both minimised. `storage`
    is a URL of Optuna, by default in memory; `name` the study's name, by default the run's. Raises RunError where
    Optuna is not installed, and for a name that is taken.
    """
    try:
        import optuna
    except ImportError as error:
        raise RunError(format_missing("a study", "optuna")) from error
    spans = bool(run.config.budget.get_spanned_costs())
    directions = ["minimize", "minimize"] if spans else ["minimize"]
    try:
        study = optuna.create_study(storage=storage, study_name=name or run.name, directions=directions)
    except optuna.exceptions.DuplicatedStudyError as error:
        raise RunError(f"a study called {name or run.name!r} is already in {storage}: choose another name") from error
    study.set_user_attr("run", str(run.path))
    with run.open_store(read_only=True) as store:
        rows = select_evaluated(store.read_evaluations())
    read_groups = make_group_reader(run)
    dense = run.structure["dense"]
    trials = []
    for row in rows:
        groups = read_groups(row)
        ratio = row.macs / dense["macs"]
        attributes: dict[str, Any] = {
            "id": row.id,
            "origin": Origin.parse(row.origin).label,
            "generation": row.generation,
            "macs_ratio": ratio,
            "params_ratio": row.params / dense["params"],
            "error": row.error,
            "cut": row.digest,
        }
        trial = optuna.trial.create_trial(
            values=[row.loss, ratio] if spans else [row.loss],
            params={group.group: group.kept for group in groups},
            distributions={group.group: optuna.distributions.IntDistribution(0, group.channels) for group in groups},
            user_attrs=attributes,
        )
        trials.append(trial)
    study.add_trials(trials)
    return study
