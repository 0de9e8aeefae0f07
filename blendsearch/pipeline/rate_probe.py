"""The learning rate of the finals, found by short trainings of one cut."""

from collections.abc import Sequence

from blendsearch.errors import TrainingError
from blendsearch.events import RateFound
from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.pareto import select_best_baselines, select_highest_fidelity
from blendsearch.runs.records import Evaluation, Probe
from blendsearch.structure.groups import unpack_cut

FIDELITY = "probe"


def find_rate(session: SearchSession) -> float | None:
    """Return the learning rate of the finals, or None where their schedule states it.

    Each rate of `finals.probe` trains the best baseline's cut; the one with the least validation loss is taken. Stored
    probes are not repeated. Raises TrainingError where none of them gives a loss.
    """
    finals = session.problem.config.finals
    if finals.tuning.rate != "auto":
        return None
    rates = finals.probe.rates
    if len(rates) == 1 or session.problem.evaluator.recipe.hooks.train_fn is not None:
        return rates[0]
    probes, is_new = _run_probes(session, _select_subject(session, rates), rates)
    valid = {rate: probe.loss for rate, probe in probes.items() if probe.loss is not None}
    if not valid:
        reason = next(iter(probes.values())).failure
        raise TrainingError(f"no learning rate of finals.probe.rates can be trained with ({reason}): choose lower ones")
    best = min(valid, key=lambda rate: (valid[rate], rate))
    if is_new:
        session.report(RateFound(rate=best, losses={f"{rate:g}": loss for rate, loss in valid.items()}))
    return best


def _select_subject(session: SearchSession, rates: Sequence[float]) -> Evaluation:
    """Select the cut that the rates are compared on.

    It is that of stored probes of these rates, else the best baseline, or the best network where there is none.
    """
    store, names = session.store, {_make_name(rate) for rate in rates}
    probed = {item.digest for item in store.read_probes() if item.fidelity in names}
    if known := [row for row in store.read_evaluations() if row.digest in probed and not row.failure]:
        return known[0]
    valid = select_highest_fidelity(store.read_evaluations(), store.read_promotions())
    baselines = select_best_baselines(valid) or valid
    return min(baselines, key=lambda row: (row.loss, row.id))


def _run_probes(session: SearchSession, subject: Evaluation, rates: Sequence[float]) -> tuple[dict[float, Probe], bool]:
    """Train the subject at every rate that was not probed yet; return all probes by rate, and whether one is new."""
    problem, store = session.problem, session.store
    names = {_make_name(rate): rate for rate in rates}

    def read() -> dict[float, Probe]:
        stored = [item for item in store.read_probes() if item.digest == subject.digest and item.fidelity in names]
        return {names[item.fidelity]: item for item in stored}

    done, asked = read(), {}
    for number, rate in enumerate(rates):
        if rate not in done:
            cut = unpack_cut(subject.cut, problem.structure.maps.channels)
            request = make_request(cut, FIDELITY, problem.config.seed, repeat=number)._replace(rate=rate)
            asked[request.seed] = rate
            session.engine.submit(request)
    for outcome in session.engine.iter_outcomes():
        rate = asked[outcome.seed]
        loss, error = (None, None) if outcome.failure else (outcome.loss, outcome.error)
        store.add_probe(
            Probe(outcome.digest, _make_name(rate), f"rate {rate:g}", loss, error, outcome.seconds, outcome.failure)
        )
    return read(), bool(asked)


def _make_name(rate: float) -> str:
    return f"{FIDELITY} {rate:g}"
