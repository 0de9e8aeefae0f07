"""What a run measures, derives or trains before its search begins: named allocations, for whoever asks for them."""

from collections.abc import Callable
from dataclasses import replace

from blendsearch.blend.fixed import Measured
from blendsearch.engine.engine import Engine
from blendsearch.runs.directory import Run
from blendsearch.runs.store import Store
from blendsearch.search.sensitivity import sensitivity
from blendsearch.search.setting import Report, Setting


def _sensitivity(run: Run, setting: Setting, engine: Engine, store: Store, report: Report) -> Measured:
    return Measured(sensitivity(setting, engine, store, report))


FOUND_BY: dict[str, Callable[[Run, Setting, Engine, Store, Report], Measured]] = {"sensitivity": _sensitivity}


def with_measured(run: Run, setting: Setting, engine: Engine, store: Store, report: Report) -> Setting:
    """`setting` with the allocations that its config asks for; what a run has found already is not done again."""
    config = setting.config
    wanted: dict[str, None] = dict.fromkeys([*config.search.seeds, config.allocation, config.method])
    measured: dict[str, Measured] = {
        name: FOUND_BY[name](run, setting, engine, store, report) for name in wanted if name in FOUND_BY
    }
    decoder = setting.decoder
    if config.allocation in measured:
        decoder = replace(decoder, fixed=measured[config.allocation].fixed)
    return replace(setting, decoder=decoder, measured=measured)
