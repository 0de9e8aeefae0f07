"""Evolution: distinct cuts, one stream of random numbers, and a state from which it goes on as if never stopped."""

import json
import random

import numpy as np
from decoders import DECODER

from blendsearch.blend.genome import unflatten_genome
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.optimizers.evolution import FIRST_MUTATIONS, LONG_SEARCH, MOST_MUTATIONS, TRIES, Evolution
from blendsearch.pipeline.optimizers.nsga import Nsga2


def evolution(seed: int = 0) -> Evolution:
    return Evolution(DECODER.space, DECODER.decode, Nsga2(DECODER.space, 0.1), 8, 0.8, np.random.default_rng(seed))


def judged(candidates: list[Candidate]) -> list[CandidateResult]:
    """Objectives that depend on the cut alone: how far its widths are from two different wishes."""
    counts = [candidate.cut.sum() for candidate in candidates]
    spread = [int(candidate.digest[:6], 16) / 16**6 for candidate in candidates]
    return [
        CandidateResult(item.genome, (float(count % 17) + part, 1 - part), item.digest)
        for item, count, part in zip(candidates, counts, spread, strict=True)
    ]


def generations(held: Evolution, number: int, known: set[str]) -> list[list[str]]:
    asked = []
    for _ in range(number):
        children = held.ask(8, known)
        known |= {child.digest for child in children}
        held.tell(judged(children))
        asked.append([child.digest for child in children])
    return asked


def started(seed: int = 0) -> tuple[Evolution, set[str]]:
    held = evolution(seed)
    first = held.ask_first(make_baselines(DECODER, 1), 16)
    held.tell(judged(first))
    return held, {item.digest for item in first}


def test_the_first_generation_holds_the_baselines_and_no_two_equal_cuts() -> None:
    seeds = make_baselines(DECODER, 1)
    first = evolution().ask_first(seeds, 16)
    assert len({item.digest for item in first}) == len(first) == len(seeds) + 2  # a quarter of the population beside
    assert len(evolution().ask_first(seeds, 5)) == 5
    named = {name for item in first for name in item.origin.split(" = ")}
    assert {f"{name} {rule}" for name in "abcde" for rule in ("uniform", "global")} <= named
    assert {"equal blend uniform", "equal blend global"} <= named
    assert sum(item.origin == "evolved" for item in first) == 2


def test_the_same_seed_asks_for_the_same_cuts_and_another_for_others() -> None:
    one, same, other = (generations(*_order(started(seed))) for seed in (0, 0, 1))
    assert one == same
    assert not {digest for part in one for digest in part} & {digest for part in other for digest in part}


def test_no_child_repeats_a_known_cut() -> None:
    held, known = started()
    before = set(known)
    asked = [digest for part in generations(held, 5, known) for digest in part]
    assert len(asked) == len(set(asked)) == 40
    assert not before & set(asked)


def test_a_child_of_a_long_search_moves_away_from_known_cuts_faster() -> None:
    held, known = started()

    def count_mutations(known: set[str]) -> int:
        counts = [0]
        operators, mutate = held.operators, held.operators.mutate

        def count(genes: list[float]) -> None:
            counts[0] += 1
            mutate(genes)

        operators.mutate = count  # type: ignore[method-assign]
        genes = list(held.population[0])
        held.decode = lambda genome: DECODER.decode(unflatten_genome(DECODER.space, list(held.population[0])))
        held._digests.clear()
        held._mutate_until_new(genes, known)
        operators.mutate = mutate  # type: ignore[method-assign]
        return counts[0]

    assert count_mutations(known) == TRIES
    doubled = sum(min(MOST_MUTATIONS, FIRST_MUTATIONS * 2**attempt) for attempt in range(TRIES))
    assert count_mutations(known | {f"earlier {number}" for number in range(LONG_SEARCH)}) == doubled


def test_a_restored_evolution_goes_on_as_if_it_had_never_stopped() -> None:
    held, known = started()
    generations(held, 2, known)
    text = json.dumps(held.state_dict())
    expected = generations(held, 3, set(known))
    twin = evolution(seed=99)
    twin.load_state_dict(json.loads(text))
    assert generations(twin, 3, set(known)) == expected


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    held, known = started()
    random.seed(5)
    before = random.getstate()
    one = generations(held, 1, set(known))
    assert random.getstate() == before
    twin, _ = started()
    random.seed(6)
    assert generations(twin, 1, set(known)) == one


def test_genomes_survive_flattening() -> None:
    genome = DECODER.space.sample(np.random.default_rng(0))
    back = unflatten_genome(DECODER.space, genome.flatten())
    for one, other in zip(genome, back, strict=True):
        assert np.array_equal(one, other)


def test_mutation_stays_inside_the_space() -> None:
    genes = Nsga2(DECODER.space, 1.0)
    flat = DECODER.space.sample(np.random.default_rng(0)).flatten()
    for _ in range(50):
        genes.mutate(flat)
        genome = unflatten_genome(DECODER.space, flat)
        assert (DECODER.space.get_choices(genome) >= 0).all() and (
            DECODER.space.get_choices(genome) <= DECODER.space.max_choices
        ).all()
        assert (DECODER.space.get_factors(genome) >= 0).all() and (DECODER.space.get_factors(genome) <= 1).all()
        assert (np.abs(genome.share) <= 1).all()


def _order(pair: tuple[Evolution, set[str]]) -> tuple[Evolution, int, set[str]]:
    return pair[0], 3, pair[1]
