"""Cheap first, dear later: the best are judged again, then fine-tuned for long; one look at the test images; timing.

Where networks were judged again, what was found is chosen among these, by that judgement.
"""

from collections.abc import Sequence

import numpy as np

from blendsearch.engine.base import Engine
from blendsearch.fitness.evaluator import JudgedOn, request
from blendsearch.fitness.latency_benchmark import measured
from blendsearch.pipeline.problem.costs import conditions, conditions_text
from blendsearch.pipeline.problem.inputs import in_python
from blendsearch.pipeline.problem.problem import Report, Setting
from blendsearch.runs.origin import DENSE, EVOLVED
from blendsearch.runs.pareto import best_baselines, dearest, front, judged_networks, knee
from blendsearch.runs.records import Evaluation, Final, Latency, Rejudged, TestResult
from blendsearch.runs.run import Run
from blendsearch.runs.store import Store
from blendsearch.structure.groups import unpacked

KEPT_BYTES = 2**30
"""Weights of judged networks that a run directory holds at most."""


def promoted(rows: Sequence[Evaluation], setting: Setting) -> list[Evaluation]:
    """The networks that are judged again: the best `promote.share`, then the best controls.

    At one budget the best by the search's objectives; over a span the front, then what is the front without these, and
    so on.
    """
    valid = judged_networks(rows)
    count = round(setting.config.promote.share * len(valid))
    if not count:
        return []
    best: list[Evaluation] = []
    if setting.decoder.spans:
        left = valid
        while len(best) < count and left:
            best += front(left, setting.costs)
            taken = {row.id for row in best}
            left = [row for row in left if row.id not in taken]
    else:
        best = sorted(valid, key=lambda row: (*setting.objectives(row), row.id))
    return list({row.digest: row for row in [*best[:count], *best_baselines(valid)]}.values())


def promote(setting: Setting, engine: Engine, store: Store, report: Report) -> None:
    """Judge the promoted networks again, on validation images; those that were stay.

    On other images than the search's, the dense network too, so that the others can be set beside it.
    """
    config = setting.config.promote
    split: JudgedOn = "unused" if config.images == "unused" else "val"
    rows, done = store.evaluations(), {item.digest for item in store.rejudged()}
    chosen = promoted(rows, setting)
    if chosen and split == "unused":
        chosen = [*chosen, *(row for row in rows if row.origin == DENSE and not row.failure)]
    fidelities = {row.digest: row.fidelity if row.origin == DENSE else config.fidelity for row in chosen}
    for row in chosen:
        if row.digest not in done:
            cut = unpacked(row.cut, setting.structure.maps.channels)
            engine.submit(request(cut, fidelities[row.digest], setting.config.seed, split))
    for outcome in engine.completed():
        fidelity = fidelities[outcome.digest]
        if outcome.failure:
            report("warning", {"text": f"judging {outcome.digest[:8]} again failed: {outcome.failure}"})
            continue
        store.add_rejudged(Rejudged(outcome.digest, fidelity, outcome.loss, outcome.error, outcome.seconds))
        report("promoted", {"done": len(store.rejudged()), "of": len(chosen)})


def picked(rows: Sequence[Evaluation], rejudged: Sequence[Rejudged], setting: Setting) -> list[Evaluation]:
    """The networks that are fine-tuned for long: `finals.picks` found ones, then the best controls.

    At one budget the best by their dearest judgement; over a span of budgets evenly along the front.
    """
    count = setting.config.finals.picks
    if not count:
        return []
    valid = dearest(rows, rejudged)
    if setting.decoder.spans:
        found = front(valid, setting.costs)
        places = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int))
        best = [found[place] for place in places]
    else:
        again = {row.digest for row in valid}
        others = [row for row in judged_networks(rows) if row.digest not in again]
        # the paper's picks come from its population, where no control stands
        found = [row for row in [*valid, *others] if row.origin == EVOLVED or setting.config.method != "cfbs"]
        # what was not judged again was worse than what was
        order = sorted(found, key=lambda row: (row.digest not in again, *setting.objectives(row), row.id))
        best = order[:count]
    unique = {row.digest: row for row in [*best, *best_baselines(valid)]}
    return list(unique.values())


def finish(run: Run, setting: Setting, engine: Engine, store: Store, report: Report) -> None:
    """Fine-tune the picks on every seed, keep their weights in the run directory, and judge them; done ones stay."""
    config = setting.config
    done = {(item.digest, item.repeat) for item in store.finals()}
    asked: dict[tuple[str, int], int] = {}
    chosen = picked(store.evaluations(), store.rejudged(), setting)
    for row in chosen:
        cut = unpacked(row.cut, setting.structure.maps.channels)
        for repeat in range(config.finals.seeds):
            if (row.digest, repeat) not in done:
                asking = request(cut, "final", config.seed, "both", repeat)._replace(weights=True)
                asked[asking.digest, asking.seed] = repeat
                engine.submit(asking)
    for outcome in engine.completed():
        repeat = asked[outcome.digest, outcome.seed]
        if outcome.failure or outcome.test is None or outcome.weights is None:
            report("warning", {"text": f"fine-tuning {outcome.digest[:8]} failed: {outcome.failure}"})
            continue
        run.keep_weights(outcome.digest, repeat, outcome.weights)
        store.add_final(Final(outcome.digest, repeat, outcome.loss, outcome.error, *outcome.test, outcome.seconds))
        report("final", {"done": len(store.finals()), "of": len(chosen) * config.finals.seeds})


def measure_reported(setting: Setting, store: Store, report: Report) -> None:
    """Measure the latency of every network that is reported, once, where latency is budgeted."""
    config = setting.config.budget
    if "latency" not in config.spans():
        return
    rows, done = store.evaluations(), store.latencies()
    valid = dearest(rows, store.rejudged())
    finals = {item.digest for item in store.finals()}
    reported = [row for row in rows if row.origin == DENSE or row.digest in finals]
    reported += [*best_baselines(valid), *front(valid, setting.costs)]
    waiting = {row.digest: row for row in reported if row.digest not in done}
    maps, height, width, channels = setting.structure.maps, *setting.splits.train.shape
    cuts = [unpacked(row.cut, maps.channels) for row in waiting.values()]
    seconds = measured(setting.model, maps, cuts, conditions(config, (channels, height, width)))
    for digest, (dense, own) in zip(waiting, seconds, strict=True):
        store.add_latency(digest, Latency(float(own / dense), float(own)))
    charged = setting.decoder.oracle.ratio("latency", maps.counts(np.array(cuts).reshape(-1, maps.channels)))
    slower = int((seconds[:, 1] / seconds[:, 0] > np.where(charged < 1, charged, np.inf)).sum())
    facts = {"networks": len(cuts), "slower": slower, "where": conditions_text(setting.model, config)}
    report("latencies", facts)


def test(setting: Setting, engine: Engine, store: Store, report: Report) -> None:
    """The one look at the test images, where there are any: the dense network, the best baselines, and the front."""
    if not setting.evaluator.recipe.task.tests:
        return
    rows = store.evaluations()
    done = store.tests()
    valid = dearest(rows, store.rejudged())
    subjects = {row.digest: row for row in rows if row.origin == DENSE}
    for row in [*best_baselines(valid), *front(valid, setting.costs)]:
        subjects[row.digest] = row
    for digest, row in subjects.items():
        if digest not in done:
            cut = unpacked(row.cut, setting.structure.maps.channels)
            engine.submit(request(cut, row.fidelity, setting.config.seed, "test"))
    for outcome in engine.completed():
        if outcome.failure:
            report("warning", {"text": f"testing {outcome.digest[:8]} failed: {outcome.failure}"})
        else:
            store.add_test(outcome.digest, TestResult(outcome.loss, outcome.error))
            report("tested", {"digest": outcome.digest, "done": len(store.tests()), "of": len(subjects)})


def keep(run: Run, setting: Setting, engine: Engine, store: Store, report: Report) -> None:
    """Keep the weights of the front where the network lives in Python: a command line could not make them again.

    The best first, then the knee, then the others, until `KEPT_BYTES` are full.
    """
    found = front(dearest(store.evaluations(), store.rejudged()), setting.costs)
    if not in_python(setting.config) or not found:
        return
    best = min(found, key=lambda row: (row.loss, row.macs, row.id))
    left = KEPT_BYTES
    for row in {row.digest: row for row in [best, knee(found, setting.costs), *found]}.values():
        left -= 4 * row.params
        if left >= 0 and not run.keeps_weights(row.digest, None):
            cut = unpacked(row.cut, setting.structure.maps.channels)
            engine.submit(request(cut, row.fidelity, setting.config.seed)._replace(weights=True))
    for outcome in engine.completed():
        if outcome.failure or outcome.weights is None:
            report("warning", {"text": f"keeping {outcome.digest[:8]} failed: {outcome.failure}"})
        else:
            run.keep_weights(outcome.digest, None, outcome.weights)
