"""What every optimiser is: it is asked for cuts that nobody has judged yet, and told how they were judged."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from blendsearch.blend.genome import Genome
from blendsearch.runs.origin import EVOLVED
from blendsearch.structure.groups import Cut


class Candidate(NamedTuple):
    """A genome and its cut, not yet judged. `origin` is ``evolved``, or the name of the baseline it is."""

    genome: Genome
    cut: Cut
    digest: str
    origin: str


class CandidateResult(NamedTuple):
    """A candidate's genome with its objectives, all minimised and finite."""

    genome: Genome
    objectives: tuple[float, ...]
    digest: str
    origin: str = EVOLVED


class Optimizer(Protocol):
    """Proposes candidates: generation by generation (`ask`, `tell`), or one at a time (`ask_one`, `tell_one`).

    What it asks for next depends on nothing but its state and what it was told, so that a resumed search asks for the
    very same cuts. A search keeps to one of the two ways; both begin with `first`.
    """

    def ask_first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        """The first generation, of at most `limit`: the seeds, then candidates of its own; no two cuts are equal."""

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        """Up to `count` candidates with cuts neither `known` nor asked twice; fewer where the space is used up."""

    def tell(self, results: Sequence[CandidateResult]) -> None:
        """Learn how the candidates last asked for were judged; failed ones are missing."""

    def ask_one(self, known: set[str]) -> Candidate | None:
        """One candidate more while others are still out, with a cut not `known`; None where the space is used up."""
        ...

    def tell_one(self, digest: str, result: CandidateResult | None) -> None:
        """Learn how one candidate was judged, in the order in which they come back; None: it failed."""

    def serialize_genome(self, genome: Genome) -> dict[str, Any]:
        """A genome as JSON values, for the store and its readers."""
        ...

    def deserialize_genome(self, facts: Mapping[str, Any]) -> Genome:
        """The genome that `described` gave these values."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that exact resumption needs, as JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
