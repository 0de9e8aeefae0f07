"""The ladder: trainings of the most promising networks during the search, on the schedule of the finals.

A network on a rung keeps its checkpoint in the training store, under the key of its final training, and continues from
there when it is promoted. Results are stored as they arrive. What is promoted next follows from the stored results
alone (`ladder_rule.py`), so an interrupted search makes the same promotions.
"""

from collections.abc import Iterable, Sequence

from blendsearch.events import RungTrained
from blendsearch.fitness.evaluator import Outcome, make_request
from blendsearch.pipeline.final_training import train_finals
from blendsearch.pipeline.ladder_rule import Climber, RungTraining, Standings, choose_promotions
from blendsearch.pipeline.optimizers.base import CandidateResult
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.pipeline.rate_probe import find_rate
from blendsearch.runs.config.ladder_plan import LadderPlan, can_use_ladder, make_plan
from blendsearch.runs.origin import EVOLVED, Origin
from blendsearch.runs.pareto import select_evaluated
from blendsearch.runs.records import Evaluation, FinalResult, RungResult
from blendsearch.structure.groups import unpack_cut
from blendsearch.training.training_cost import compute_training_cost


def make_ladder(session: SearchSession, asked: int | None = None) -> "Ladder | None":
    """Make the ladder with the evaluations up to the id `asked`, by default all; None where the run has no ladder."""
    problem = session.problem
    config, hooks = problem.config, problem.evaluator.recipe.hooks
    if not config.finals.count_picks() or not can_use_ladder(config) or hooks.train_fn is not None:
        return None
    ladder = Ladder(session, make_plan(config.ladder, config.finals.count_picks()))
    rows = session.store.read_bare_evaluations(-1)
    ladder.add(row for row in rows if asked is None or row.id <= asked)
    return ladder


def _is_rule(text: str) -> bool:
    """Return whether a stored origin is that of a known rule."""
    if text == EVOLVED:  # as nearly all are
        return False
    origin = Origin.parse(text)
    return origin.is_baseline and not origin.in_best_allocation


class Ladder:
    """The networks of one search on their rungs.

    Attributes
    ----------
    rate: the learning rate, once `prepare` has found it; None where the schedule states it.
    is_prepared: True once `prepare` was called.
    """

    def __init__(self, session: SearchSession, plan: LadderPlan) -> None:
        self.session, self.plan = session, plan
        self.standings = Standings()
        self.rate: float | None = None
        self.is_prepared = False
        self._rows: dict[str, Evaluation] = {}
        self._asked: dict[tuple[str, int], RungTraining] = {}
        for item in session.store.read_rungs():
            self.standings.start(RungTraining(item.digest, self.standings.find_rung(item.digest), item.rung))
            self.standings.finish(item.digest, item.rung, item.loss)

    @property
    def num_running(self) -> int:
        """Return the number of trainings that run."""
        return len(self._asked)

    def add(self, rows: Iterable[Evaluation]) -> None:
        """Add evaluated networks; failures and the dense network are left out."""
        for row in select_evaluated(list(rows)):
            assert row.loss is not None
            self.standings.add(Climber(row.digest, row.id, row.loss, _is_rule(row.origin)))
            self._rows[row.digest] = row._replace(cut=b"", genome="")

    def prepare(self) -> None:
        """Find the learning rate, unless it is known. No request of the engine may be outstanding."""
        if not self.is_prepared:
            self.rate, self.is_prepared = find_rate(self.session), True

    def climb(self, earned: float) -> None:
        """Train on every rung but the last as many networks as the part `earned` of the search allows."""
        for rung in range(1, self.plan.last):
            while batch := choose_promotions(self.plan, self.standings, rung, earned):
                self.prepare()
                for promotion in batch:
                    self.submit(promotion)
                for outcome in self.session.engine.iter_outcomes():
                    self.receive(outcome)

    def choose_next(self, earned: float) -> RungTraining | None:
        """Choose one promotion for a free worker, on the highest rung that has one; None where there is none."""
        for rung in reversed(range(1, self.plan.last)):
            if found := choose_promotions(self.plan, self.standings, rung, earned):
                return found[0]
        return None

    def submit(self, promotion: RungTraining) -> None:
        """Send a training to the engine."""
        problem = self.session.problem
        cut = unpack_cut(self._read_row(promotion.digest).cut, problem.structure.maps.channels)
        request = make_request(cut, "final", problem.config.seed)
        self._asked[request.digest, request.seed] = promotion
        self.standings.start(promotion)
        self.session.engine.submit(request._replace(rate=self.rate, stop=self.plan.get_share(promotion.rung)))

    def receive(self, outcome: Outcome) -> bool:
        """Store the outcome of a training; return False for an outcome of another kind."""
        promotion = self._asked.pop((outcome.digest, outcome.seed), None)
        if promotion is None:
            return False
        if outcome.failure:
            self.session.warn(
                f"training {outcome.digest[:8]} failed: {outcome.failure}; the next network takes its place"
            )
        numbers = (None, None) if outcome.failure else (outcome.loss, outcome.error)
        self._store(promotion, numbers, outcome.seconds, outcome.failure)
        return True

    def finish(self) -> None:
        """Fill all rungs, train the finalists to the end, on all seeds of the finals, and drop all checkpoints."""
        self._warn_of_full_rung()
        self.climb(1.0)
        while batch := choose_promotions(self.plan, self.standings, self.plan.last, 1.0):
            self.prepare()
            self._train_finalists(batch)
        self._repeat_finals()
        self._delete_checkpoints()

    def rank_results(self, results: Sequence[CandidateResult]) -> list[CandidateResult]:
        """Add the rungs of the results, and order them: on a higher rung first, then with a lower loss there."""
        ranked = sorted(results, key=lambda item: self.standings.rank(item.digest))
        found = []
        for item in ranked:
            rung = self.standings.find_rung(item.digest)
            loss = self.standings.losses[rung][item.digest] if rung else None
            found.append(item._replace(rung=rung, rung_loss=loss))
        return found

    def _train_finalists(self, batch: Sequence[RungTraining]) -> None:
        promotions, stored = {item.digest: item for item in batch}, self._read_finals()
        for promotion in batch:
            self.standings.start(promotion)
        for digest in promotions.keys() & stored.keys():  # interrupted between the two rows
            item = stored[digest]
            self._store(promotions[digest], (item.loss, item.error), item.seconds, "")
        rows = [self._read_row(digest) for digest in promotions if digest not in stored]
        for digest, _, outcome in train_finals(
            self.session, [(row, 0) for row in rows], self.rate, self._count_finals()
        ):
            failure = outcome.failure or (
                "" if outcome.test and outcome.weights else "it has no test result or weights"
            )
            numbers = (None, None) if failure else (outcome.loss, outcome.error)
            self._store(promotions[digest], numbers, outcome.seconds, failure)

    def _repeat_finals(self) -> None:
        """Train the finalists on the further seeds of the finals."""
        done = {(item.digest, item.repeat) for item in self.session.store.read_finals()}
        finalists = sorted(self.standings.list_on(self.plan.last), key=self.standings.rank)
        repeats = range(1, self.session.problem.config.finals.seeds)
        missing = [(digest, repeat) for digest in finalists for repeat in repeats if (digest, repeat) not in done]
        if missing:
            self.prepare()
            pairs = [(self._read_row(digest), repeat) for digest, repeat in missing]
            for _ in train_finals(self.session, pairs, self.rate, self._count_finals()):
                pass

    def _store(
        self, promotion: RungTraining, numbers: tuple[float | None, float | None], seconds: float, failure: str
    ) -> None:
        """Store and report the result of a training: loss and error, or None."""
        problem, row, plan = self.session.problem, self._rows[promotion.digest], self.plan
        step = plan.compute_step(promotion.rung, promotion.start)
        cost = compute_training_cost(row.macs, problem.evaluator.recipe.final, len(problem.splits.train)) * step
        result = RungResult(row.digest, promotion.rung, *numbers, seconds, cost, failure)
        self.session.store.add_rung(result)
        self.standings.finish(row.digest, promotion.rung, result.loss)
        if promotion.rung < plan.last:
            self.session.report(
                RungTrained(
                    id=row.id,
                    origin=row.origin,
                    rung=promotion.rung,
                    rungs=plan.last,
                    share=plan.get_share(promotion.rung),
                    loss=result.loss,
                    error=result.error if problem.has_error else None,
                )
            )

    def _read_row(self, digest: str) -> Evaluation:
        row = self.session.store.read_evaluation(self._rows[digest].id)
        assert row is not None, "a row of the store vanished"
        return row

    def _read_finals(self) -> dict[str, FinalResult]:
        return {item.digest: item for item in self.session.store.read_finals() if not item.repeat}

    def _count_finals(self) -> int:
        return self.plan.sizes[-1] * self.session.problem.config.finals.seeds

    def _delete_checkpoints(self) -> None:
        channels = self.session.problem.structure.maps.channels
        for digest in {item.digest for item in self.standings.trained} & self._rows.keys():
            request = make_request(
                unpack_cut(self._read_row(digest).cut, channels), "final", self.session.problem.config.seed
            )
            self.session.problem.evaluator.store.delete(request.key)

    def _warn_of_full_rung(self) -> None:
        """Warn where the last rung was full before this call, and the best network of the search is on no rung."""
        searched = [item for item in self.standings.climbers.values() if not item.is_rule]
        if not searched or len(self.standings.list_on(self.plan.last)) < self.plan.sizes[-1]:
            return
        best = min(searched, key=lambda item: (item.loss, item.id))
        if not self.standings.find_rung(best.digest) and best.digest not in self.standings.failed:
            self.session.warn(
                f"network {best.id}, the best by the search's own evaluation, is not trained: the ladder is full; "
                "raise ladder.cost and ladder.finalists to train networks that were found since"
            )
