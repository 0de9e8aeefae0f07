"""The contract of an engine: each request comes back once, with the numbers of a direct evaluation or as failed."""

from collections.abc import Sequence

from blendsearch.engine.base import Engine
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request


def check_engine(engine: Engine, evaluator: Evaluator, requests: Sequence[Request]) -> None:
    """Check `engine` with at least two `requests` for different cuts.

    `evaluator` equals the engine's own one, is not used by it, and has the same number of threads.
    """
    check_outcomes(engine, evaluator, requests)
    check_failures(engine, requests)


def check_outcomes(engine: Engine, evaluator: Evaluator, requests: Sequence[Request]) -> dict[str, Outcome]:
    """Check that every outcome equals that of a direct evaluation; return the outcomes by digest."""
    outcomes = collect_outcomes(engine, requests)
    for request in requests:
        expected, found = evaluator.evaluate(request), outcomes[request.digest]
        assert found._replace(seconds=0) == expected._replace(seconds=0), f"{found} is not {expected}"
    return outcomes


def check_failures(engine: Engine, requests: Sequence[Request]) -> None:
    """Check that requests that cannot be evaluated come back as failed and leave the others alone."""
    first, *others = requests
    empty = first._replace(cut=bytes(len(first.cut)), digest="empty")
    unknown = first._replace(fidelity="perfect", digest="unknown")
    outcomes = collect_outcomes(engine, [first, empty, *others, unknown])
    assert not any(outcomes[request.digest].failure for request in requests), "a request failed beside a wrong one"
    assert outcomes["empty"].failure, "a cut without channels was evaluated"
    assert "perfect" in outcomes["unknown"].failure, "the failure does not name the unknown fidelity"
    assert not list(engine.iter_outcomes()), "an outcome came back twice"


def collect_outcomes(engine: Engine, requests: Sequence[Request]) -> dict[str, Outcome]:
    """Evaluate `requests` and return the outcomes by digest; each request must come back once."""
    for request in requests:
        engine.submit(request)
    outcomes = list(engine.iter_outcomes())
    assert len(outcomes) == len(requests), f"{len(requests)} requests gave {len(outcomes)} outcomes"
    return {outcome.digest: outcome for outcome in outcomes}
