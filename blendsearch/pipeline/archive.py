"""The stored evaluations as the loop needs them, in memory: no generation reads the whole store again."""

from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.origin import DENSE
from blendsearch.runs.pareto import ParetoArchive, compute_hypervolume
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run_facts import GenerationRow, GenerationSummary
from blendsearch.runs.store import Store


class SearchArchive:
    """Counts, fronts and generations of one run: read from its store once, then updated row by row.

    Some hundred bytes per evaluation; cuts and genomes stay in the store.

    Attributes
    ----------
    evaluations: the number of pruned networks evaluated, with or without a failure.
    generations: all recorded generations, in order.
    best: the id of the network with the lowest loss; None before the first.
    """

    def __init__(self, store: Store, problem: Problem) -> None:
        self._problem = problem
        self.evaluations = 0
        self.generations = store.read_generations()
        self._generation_rows: dict[int, list[tuple[int, float, str]]] = {}
        self._best: tuple[float, int] | None = None
        self._front, self._volume = ParetoArchive(), ParetoArchive()
        for row in store.read_bare_evaluations(-1, cuts=problem.reads_cuts_for_costs):
            self.add(row)

    @property
    def best(self) -> int | None:
        return None if self._best is None else self._best[1]

    def add(self, row: Evaluation) -> None:
        """Add a row of the store; the dense network's changes nothing."""
        if row.origin == DENSE:
            return
        self.evaluations += 1
        self._generation_rows.setdefault(row.generation, []).append((row.id, row.seconds, row.failure))
        if row.failure:
            return
        costs = self._problem.compute_costs(row)
        if row.error is not None:
            self._volume.add(row.id, (row.error, *costs))
            if row.loss is not None:
                self._front.add(row.id, (row.loss, *(costs or (row.error,))))
        if row.loss is not None:
            self._best = min(self._best or (row.loss, row.id), (row.loss, row.id))

    def list_generation(self, generation: int) -> list[tuple[int, float, str]]:
        """List id, seconds and failure of the evaluations of a generation, by id."""
        return sorted(self._generation_rows.get(generation, []))

    def summarize(self) -> GenerationSummary:
        """Summarize all evaluations so far."""
        return {
            "front": len(self._front.compute_front()),
            "hypervolume": compute_hypervolume(self._volume.compute_front()),
            "best_loss": None if self._best is None else self._best[0],
        }

    def add_generation(self, row: GenerationRow) -> None:
        """Add a recorded generation, or replace the one with its number."""
        number = row["generation"]
        if self.generations and self.generations[-1]["generation"] >= number:
            self.generations = [item for item in self.generations if item["generation"] != number]
        self.generations.append(row)
        self.generations.sort(key=lambda item: item["generation"])
