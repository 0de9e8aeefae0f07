"""The promotion rule of the ladder, simulated: costs, order, and independence of interruptions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendsearch.pipeline.ladder_rule import Climber, RungTraining, Standings, choose_promotions, compute_charge
from blendsearch.runs.config.ladder_plan import EPSILON, LadderPlan, make_plan
from blendsearch.runs.config.sections import LadderConfig

RUNGS = [(0.0625, 0.25), (0.1,), (0.03, 0.1, 0.5)]


@dataclass
class World:
    """Networks with a loss on every rung, and those whose training up to a rung fails."""

    plan: LadderPlan
    climbers: list[Climber]
    losses: dict[tuple[str, int], float]
    failing: set[tuple[str, int]] = field(default_factory=set)
    generations: int = 4

    def get_result(self, item: RungTraining) -> float | None:
        return None if (item.digest, item.rung) in self.failing else self.losses[item.digest, item.rung]


def climb(
    world: World, stored: Sequence[RungTraining] = (), begin: int = 1, stops_after: int = 10**6
) -> tuple[list[RungTraining], int]:
    """Search with the ladder from generation `begin` and the `stored` trainings on; stop after so many further ones.

    Returns all trainings, and the generation in which the search stopped.
    """
    done = list(stored)
    for generation in range(begin, world.generations + 2):
        earned = min(1.0, generation / world.generations)
        known = world.climbers[: -(-len(world.climbers) * min(generation, world.generations) // world.generations)]
        rungs = range(1, world.plan.last + (generation > world.generations))
        for rung in rungs:
            while True:
                standings = Standings({item.digest: item for item in known})
                for item in done:
                    standings.start(item)
                    standings.finish(item.digest, item.rung, world.get_result(item))
                batch = choose_promotions(world.plan, standings, rung, earned)
                if not batch:
                    break
                for item in batch[::-1]:  # the last one arrives first
                    if len(done) - len(stored) >= stops_after:
                        return done, generation
                    done.append(item)
    return done, begin


@st.composite
def make_world(draw: st.DrawFn, failures: bool = True) -> World:
    rungs = draw(st.sampled_from(RUNGS))
    ladder = LadderConfig(
        rungs=rungs,
        keep=draw(st.sampled_from([0.2, 1 / 3, 0.5, 1.0])),
        finalists=draw(st.integers(1, 3)),
        rules=draw(st.integers(0, 8)),
        cost=draw(st.sampled_from([3.0, 3.3, 4.0, 6.0])),
    )
    plan = make_plan(ladder, 1)
    count = draw(st.integers(0, 40))
    # equal losses are likely, and broken by the number of the network
    climbers = [
        Climber(f"n{number}", number, draw(st.integers(0, 20)) / 10, draw(st.booleans())) for number in range(count)
    ]
    places = [(item.digest, rung) for item in climbers for rung in range(1, plan.last + 1)]
    losses = {place: draw(st.integers(0, 20)) / 10 for place in places}
    failing = set(draw(st.lists(st.sampled_from(places), max_size=6))) if failures and places else set()
    return World(plan, climbers, losses, failing)


@given(make_world())
def test_the_cost_is_never_above_its_limit_and_nothing_is_trained_twice(world: World) -> None:
    done, _ = climb(world)
    assert compute_charge(world.plan, done) <= world.plan.cost + EPSILON
    assert max(Counter((item.digest, item.rung) for item in done).values(), default=1) == 1
    for digest in {item.digest for item in done}:
        own = [item for item in done if item.digest == digest]
        assert [item.start for item in own] == [0, *(item.rung for item in own[:-1])]
        assert all((digest, item.rung) not in world.failing for item in own[:-1])  # a failed one is left alone


@given(make_world(), st.integers(0, 30), st.integers(0, 30))
def test_interruptions_change_no_promotion(world: World, first: int, second: int) -> None:
    stored = climb(world, *climb(world, stops_after=first), stops_after=second)
    assert set(climb(world, *stored)[0]) == set(climb(world)[0])


@given(make_world(failures=False))
def test_without_failures_every_rung_is_filled_as_planned(world: World) -> None:
    done, plan = climb(world)[0], world.plan
    counts = Counter(item.rung for item in done)
    rules = sum(item.is_rule for item in world.climbers)
    searched = len(world.climbers) - rules
    known = min(rules, plan.rules)
    expected = known + min(searched, plan.sizes[0] - known)
    for rung, size in enumerate(plan.sizes, 1):
        expected = min(expected, size) if rung > 1 else expected
        if rung < plan.last:
            assert counts[rung] == expected
    assert counts[plan.last] == min(len(world.climbers), plan.sizes[-1]) or expected < plan.sizes[-1]


@given(make_world(failures=False))
def test_the_best_of_a_rung_are_promoted(world: World) -> None:
    done, plan = climb(world)[0], world.plan
    last = {item.digest for item in done if item.rung == plan.last}
    below = {item.digest for item in done if item.rung == plan.last - 1}
    if len(below) <= len(last) or not last or plan.sizes[-1] < 2:
        return
    order = sorted(below, key=lambda digest: (world.losses[digest, plan.last - 1], int(digest[1:])))
    kinds = {item.digest: item.is_rule for item in world.climbers}
    assert len({kinds[digest] for digest in last}) == len({kinds[digest] for digest in below})
    # all but the place that one kind may need are the best
    assert set(order[: len(last) - 1]) <= last


def test_one_finalist_at_least_is_a_known_rule() -> None:
    plan = make_plan(LadderConfig(), 1)
    climbers = [Climber(f"n{number}", number, number / 10, number >= 30) for number in range(40)]
    losses = {(item.digest, rung): item.loss for item in climbers for rung in (1, 2, 3)}
    done, _ = climb(World(plan, climbers, losses, generations=1))
    assert [item.digest for item in done if item.rung == 3] == ["n30", "n1", "n0"]


def test_a_rule_is_the_only_finalist_where_there_is_one() -> None:
    plan = make_plan(LadderConfig(finalists=1, cost=1.5), 1)
    climbers = [Climber("a", 1, 0.5, True), Climber("b", 2, 0.4, False)]
    losses = {(name, rung): loss for name, loss in (("a", 0.1), ("b", 0.2)) for rung in (1, 2, 3)}
    done, _ = climb(World(plan, climbers, losses))
    assert [item.digest for item in done if item.rung == 3] == ["a"]


def test_networks_that_are_added_one_by_one_stand_as_those_of_a_resumed_search() -> None:
    items = [Climber(f"n{number % 7}", number % 7, (number * 5 % 9) / 9, number % 3 == 0) for number in range(30)]
    grown = Standings()
    for item in items:
        grown.add(item)
    resumed = Standings(dict(grown.climbers))
    for is_rule in (True, False):
        assert grown.list_untrained(9, is_rule=is_rule) == resumed.list_untrained(9, is_rule=is_rule)
    assert grown.count_rules() == sum(item.is_rule for item in grown.climbers.values())


def test_a_choice_ranks_no_networks_that_were_never_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(LadderConfig(), 1)
    standings = Standings({f"n{number}": Climber(f"n{number}", number, number / 9, False) for number in range(5_000)})
    looked, find_rung = [0], Standings.find_rung

    def count_calls(standings: Standings, digest: str) -> int:
        looked[0] += 1
        return find_rung(standings, digest)

    monkeypatch.setattr(Standings, "find_rung", count_calls)
    for rung in (1, 2):
        while batch := choose_promotions(plan, standings, rung, 1.0):
            for item in batch:
                standings.start(item)
                standings.finish(item.digest, rung, 1.0)
    assert len(standings.losses[1]) == plan.sizes[0] and looked[0] < 100


def test_the_default_plan() -> None:
    plan = make_plan(LadderConfig(), 1)
    assert plan.sizes == (14, 4, 3) and plan.rules == 7 and plan.compute_cost() == 3.875


def test_a_cost_below_the_finalists_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ladder.cost allows 4: set it to 6 or more, or set ladder.rungs to \[\]"):
        make_plan(LadderConfig(), 5)
