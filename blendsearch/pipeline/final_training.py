"""The long fine-tunes of selected networks: training, storing, and clearing up."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from blendsearch.events import FinalTrained
from blendsearch.fitness.evaluator import Outcome, make_request
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.records import Evaluation, FinalResult
from blendsearch.structure.groups import unpack_cut


class TrainedFinal(NamedTuple):
    """The outcome of the long fine-tune of a network on one seed."""

    digest: str
    repeat: int
    outcome: Outcome


def train_finals(
    session: SearchSession, pairs: Sequence[tuple[Evaluation, int]], rate: float | None, total: int
) -> Iterator[TrainedFinal]:
    """Fine-tune networks, each on the seed with its number; store each result, then yield it.

    Failures are warned of. `total`: the fine-tunes that the run is to have, for the report.
    """
    problem, store = session.problem, session.store
    asked: dict[tuple[str, int], tuple[int, str]] = {}
    for row, repeat in pairs:
        cut = unpack_cut(row.cut, problem.structure.maps.channels)
        request = make_request(cut, "final", problem.config.seed, "both", repeat)
        request = request._replace(return_weights=True, rate=rate)
        asked[request.digest, request.seed] = repeat, request.key
        session.engine.submit(request)
    for outcome in session.engine.iter_outcomes():
        repeat, key = asked[outcome.digest, outcome.seed]
        if outcome.failure or outcome.test is None or outcome.weights is None:
            session.warn(f"fine-tuning {outcome.digest[:8]} failed: {outcome.failure}")
        else:
            session.run.save_weights(outcome.digest, repeat, outcome.weights)
            result = FinalResult(outcome.digest, repeat, outcome.loss, outcome.error, *outcome.test, outcome.seconds)
            store.add_final(result)
            problem.evaluator.store.delete(key)
            session.report(FinalTrained(done=len(store.read_finals()), of=total))
        yield TrainedFinal(outcome.digest, repeat, outcome)
