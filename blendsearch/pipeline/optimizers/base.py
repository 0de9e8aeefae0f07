"""The protocol of optimizers: they propose cuts that were not evaluated yet, and receive the results."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict, cast, get_type_hints

import numpy as np

from blendsearch.blend.genome import Genome, GenomeFields
from blendsearch.errors import RunError
from blendsearch.runs.decoding import check_type, decode_json
from blendsearch.runs.origin import EVOLVED
from blendsearch.structure.groups import Cut


class Candidate(NamedTuple):
    """A genome and its cut, not yet evaluated. `origin` is ``evolved``, or the name of the baseline it is."""

    genome: Genome
    cut: Cut
    digest: str
    origin: str


class CandidateResult(NamedTuple):
    """A candidate's genome with its objectives, all minimized and finite.

    Attributes
    ----------
    rung: the highest rung of the ladder that the network was trained up to; 0 for none.
    rung_loss: its validation loss there; None on rung 0.
    """

    genome: Genome
    objectives: tuple[float, ...]
    digest: str
    origin: str = EVOLVED
    rung: int = 0
    rung_loss: float | None = None

    @property
    def rank(self) -> tuple[int, float]:
        """Return the sort key of results: a higher rung first, then a lower loss there."""
        return -self.rung, self.objectives[0] if self.rung_loss is None else self.rung_loss


class Optimizer(Protocol):
    """Proposes candidates: generation by generation (`ask`, `tell`), or one at a time (`ask_one`, `tell_one`).

    The next candidates depend on the state and the results received, and on nothing else, so that a resumed search
    proposes the same cuts. A search uses one of the two ways throughout; both begin with `ask_first`.

    An optimizer with an attribute `saves_steady_state` that is True has all of its state in `state_dict` between
    `ask_one` and `tell_one`, too. A steady search of any other one resumes by repeating its whole journal.
    """

    def ask_first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        """Return the first generation, of at most `limit`: the seeds, then others; no two cuts are equal."""

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        """Return up to `count` candidates with new cuts, none of them `known`; fewer where the space is used up."""

    def tell(self, results: Sequence[CandidateResult]) -> None:
        """Receive the results of the last generation; failed candidates are missing.

        Where networks are trained on a ladder, results are ordered by `CandidateResult.rank`.
        """

    def ask_one(self, known: set[str]) -> Candidate | None:
        """Return one more candidate while others are pending, its cut not `known`; None where the space is used up."""
        ...

    def tell_one(self, digest: str, result: CandidateResult | None) -> None:
        """Receive the result of one candidate, in the order of completion; None where it failed."""

    def serialize_genome(self, genome: Genome) -> GenomeFields:
        """Return a genome as JSON values, for the store and its readers."""
        ...

    def deserialize_genome(self, facts: GenomeFields) -> Genome:
        """Return the genome that `serialize_genome` gave these values."""
        ...

    def state_dict(self) -> Mapping[str, object]:
        """Return everything that exact resumption needs, as JSON values; each optimizer defines its own keys."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Continue from what `state_dict` returned, read back from JSON."""


def restore_optimizer(optimizer: Optimizer, state: Mapping[str, object]) -> None:
    """Load a stored state. Raises ValueError unless it has the type that the optimizer's `load_state_dict` declares."""
    check_type(state, get_type_hints(type(optimizer).load_state_dict).get("state", Any))
    optimizer.load_state_dict(state)


def parse_stored_genome(optimizer: Optimizer, text: str) -> Genome:
    """Parse the genome of a row of ``run.sqlite``. Raises RunError where it is damaged."""
    try:
        genome = optimizer.deserialize_genome(decode_json(text, dict[str, Any]))
        if not np.isfinite(genome.flatten()).all():
            raise ValueError("a gene is not finite")
    except (ValueError, TypeError, LookupError) as error:
        raise RunError(f"a genome in run.sqlite is damaged ({error}): restore the file from a copy") from error
    return genome


class _Counters(TypedDict):
    state: int
    inc: int


class RandomState(TypedDict):
    """State of a generator of `numpy.random.default_rng`."""

    bit_generator: str
    state: _Counters
    has_uint32: int
    uinteger: int


def get_random_state(rng: np.random.Generator) -> RandomState:
    """Return the state of `rng` as JSON values."""
    return cast(RandomState, rng.bit_generator.state)


def set_random_state(rng: np.random.Generator, state: RandomState) -> None:
    """Continue with the numbers that follow `state`. Raises ValueError where `rng` cannot have it."""
    if not state["state"]["inc"] % 2:
        raise ValueError(f"numpy.state.inc cannot be {state['state']['inc']}")
    rng.bit_generator.state = state
