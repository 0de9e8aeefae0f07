"""A network, its groups, scores and data, ready to be searched."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from blendsearch.blend.allocation_rules import PreparedAllocation
from blendsearch.blend.clustering import Clusters
from blendsearch.blend.decoder import Decoder
from blendsearch.criteria.table import ScoreTable
from blendsearch.data.splits import Splits
from blendsearch.fitness.evaluator import Evaluator
from blendsearch.runs.config.method_registry import load_implementation
from blendsearch.runs.config.schema import Config
from blendsearch.runs.records import Evaluation
from blendsearch.structure.groups import unpack_cut
from blendsearch.structure.trace import Structure


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that a search is defined by. Built from a config (`builder.py`) or restored from a run
    (`persistence.py`).

    Attributes
    ----------
    config: the configuration of the run.
    structure: groups of channels, index maps and the cost oracle of the network.
    table: scores of every criterion for every channel; clusters: of the criteria, per group.
    decoder: maps a genome to a cut at the budget.
    evaluator: maps a cut to loss and error; holds the dense network and the data.
    has_error: False where a user-defined loss or `evaluate=` gives no classification error.
    dense_loss: loss that a user-defined `evaluate=` gave the dense network before a new search.
    allocations: prepared allocations by name, once the search has begun.
    """

    config: Config
    structure: Structure
    table: ScoreTable
    clusters: Clusters
    decoder: Decoder
    evaluator: Evaluator
    has_error: bool = True
    dense_loss: float | None = None
    allocations: Mapping[str, PreparedAllocation] = field(default_factory=dict)
    _costs: dict[str, tuple[float, ...]] = field(default_factory=dict, init=False, repr=False)

    @property
    def model(self) -> nn.Module:
        return self.evaluator.model

    @property
    def splits(self) -> Splits:
        return self.evaluator.splits

    @property
    def reads_cuts_for_costs(self) -> bool:
        """True where `compute_costs` needs the cut of a row: its MACs and parameters are stored."""
        return not {"macs", "params"}.issuperset(self.decoder.ranged_costs)

    def compute_costs(self, row: Evaluation) -> tuple[float, ...]:
        """Return the costs of `row` whose budgets span a range, as shares of the dense cost."""
        dense, names = self.structure.oracle.dense, self.decoder.ranged_costs
        if not self.reads_cuts_for_costs:
            return tuple((row.macs if name == "macs" else row.params) / dense[name] for name in names)
        if row.digest not in self._costs:
            maps, oracle = self.structure.maps, self.structure.oracle
            counts = maps.count_kept(unpack_cut(row.cut, maps.channels))
            self._costs[row.digest] = tuple(float(oracle.compute_ratio(name, counts)) for name in names)
        return self._costs[row.digest]

    def compute_objectives(self, row: Evaluation) -> tuple[float, ...]:
        """Return the method's objectives of `row`, all minimized. Raises ValueError for a failed evaluation."""
        objectives: tuple[float, ...] = load_implementation(self.config.method).compute_objectives(self, row)
        return objectives
