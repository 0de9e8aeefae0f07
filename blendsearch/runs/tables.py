"""The tables of ``run.sqlite``."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS evaluations (
    id          INTEGER PRIMARY KEY,       -- in the order of requests, from 1
    digest      TEXT NOT NULL,
    cut         BLOB NOT NULL,             -- kept channels, then whole layers, packed bits
    fidelity    TEXT NOT NULL,
    seed        INTEGER NOT NULL,
    generation  INTEGER NOT NULL,
    origin      TEXT NOT NULL,             -- 'evolved', or the name of a baseline
    genome      TEXT NOT NULL,             -- JSON
    macs        INTEGER NOT NULL,
    params      INTEGER NOT NULL,
    loss        REAL,
    error       REAL,
    seconds     REAL NOT NULL,
    failure     TEXT NOT NULL,             -- empty: evaluated without failure
    UNIQUE (digest, fidelity)
);
CREATE TABLE IF NOT EXISTS completions (
    place       INTEGER PRIMARY KEY,       -- in the order of completion, from 1
    id          INTEGER NOT NULL UNIQUE,   -- of the evaluation
    asked       INTEGER NOT NULL,          -- number of evaluations requested by then
    at          REAL NOT NULL              -- seconds since 1970
);
CREATE TABLE IF NOT EXISTS inherited (     -- by a fork, from its parent run
    place       INTEGER PRIMARY KEY,
    digest      TEXT NOT NULL,
    fidelity    TEXT NOT NULL,
    seed        INTEGER NOT NULL,
    origin      TEXT NOT NULL,
    genome      TEXT NOT NULL,             -- JSON
    loss        REAL,
    error       REAL,
    failure     TEXT NOT NULL,
    judged      INTEGER NOT NULL,          -- 1: loss and error are inherited too
    begins      INTEGER NOT NULL           -- 1: part of the first population
);
CREATE TABLE IF NOT EXISTS tests (
    subject     TEXT PRIMARY KEY,          -- 'dense', or a cut's digest
    loss        REAL NOT NULL,
    error       REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS rejudged (
    digest      TEXT NOT NULL,
    fidelity    TEXT NOT NULL,             -- higher than that of its evaluation
    loss        REAL NOT NULL,
    error       REAL NOT NULL,
    seconds     REAL NOT NULL,
    UNIQUE (digest, fidelity)
);
CREATE TABLE IF NOT EXISTS finals (
    digest      TEXT NOT NULL,
    repeat      INTEGER NOT NULL,          -- index of the seed, from 0
    loss        REAL NOT NULL,
    error       REAL NOT NULL,
    test_loss   REAL NOT NULL,
    test_error  REAL NOT NULL,
    seconds     REAL NOT NULL,
    UNIQUE (digest, repeat)
);
CREATE TABLE IF NOT EXISTS latencies (
    digest      TEXT PRIMARY KEY,
    ratio       REAL NOT NULL,             -- to the dense network, measured alternately
    seconds     REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS runtime_latencies (
    digest      TEXT NOT NULL,
    runtime     TEXT NOT NULL,             -- another one than that of the table latencies
    ratio       REAL NOT NULL,
    seconds     REAL NOT NULL,
    PRIMARY KEY (digest, runtime)
);
CREATE TABLE IF NOT EXISTS probes (
    digest      TEXT NOT NULL,
    fidelity    TEXT NOT NULL,
    subject     TEXT NOT NULL,             -- the narrowed group, or 'dense'
    loss        REAL,
    error       REAL,
    seconds     REAL NOT NULL,
    failure     TEXT NOT NULL,             -- empty: evaluated without failure
    UNIQUE (digest, fidelity)
);
CREATE TABLE IF NOT EXISTS rungs (         -- trainings on the schedule of the finals
    digest      TEXT NOT NULL,
    rung        INTEGER NOT NULL,          -- from 1; the last one is the whole schedule
    loss        REAL,
    error       REAL,
    seconds     REAL NOT NULL,
    cost        REAL NOT NULL,             -- multiply-accumulates from the rung before
    failure     TEXT NOT NULL,             -- empty: trained without failure
    UNIQUE (digest, rung)
);
CREATE TABLE IF NOT EXISTS further (
    digest      TEXT NOT NULL,
    fidelity    TEXT NOT NULL,
    numbers     TEXT NOT NULL,             -- JSON: further metrics of a user-defined evaluate function
    PRIMARY KEY (digest, fidelity)
);
CREATE TABLE IF NOT EXISTS generations (
    generation  INTEGER PRIMARY KEY,
    evaluations INTEGER NOT NULL,
    seconds     REAL NOT NULL,             -- of evaluation, summed over workers
    wall        REAL NOT NULL,
    summary     TEXT NOT NULL              -- JSON
);
"""

AGES = {
    **dict.fromkeys(("finals", "latencies", "rejudged"), 1),
    **dict.fromkeys(("completions", "further", "inherited", "probes"), 2),
    "rungs": 3,
    "runtime_latencies": 4,
}
"""Order in which versions added tables: a run that has one of them has all earlier ones."""

KEYS = {
    "completions": ("id",),
    "finals": ("digest", "repeat"),
    "generations": ("generation",),
    "latencies": ("digest",),
    "probes": ("digest", "fidelity"),
    "rejudged": ("digest", "fidelity"),
    "rungs": ("digest", "rung"),
    "runtime_latencies": ("digest", "runtime"),
    "tests": ("subject",),
}
"""Columns whose values are unique, which the rows of a table that was written anew may violate."""
