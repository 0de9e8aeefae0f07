"""All comparisons of this folder in one table and one picture, and the regret of the search over the settings.

    python experiments/after_training/summary.py [FILE ...]

Reads the files that `compare.py --no-ladder` and `first_example.py` wrote (all of this folder without arguments),
prints a Markdown table, and writes `summary.json` and `summary.png`. The regret of an arm in a setting is the
difference, in points of test accuracy, of the best arm at equal total cost to it; both are means over the seeds that
all of these arms have. Searches with a capacity are a second try at a setting and have no regret.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = Path(__file__).parent
OTHERS = ("rule", "torch-pruning, as used", "l1 uniform", "l1 global")
"""Arms of another cost or recipe; the regret leaves them out."""

COLORS = {"search": "tab:blue", "rule, equal cost": "tab:orange", "rule": "tab:brown"}


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]] or [
        *sorted(HERE.glob("*-no-ladder*.json")),
        HERE / "first_example.json",
    ]
    settings = [json.loads(path.read_text()) for path in paths]
    regrets = [compute_regret(setting) for setting in settings if not setting.get("capacity")]
    arms = list(dict.fromkeys(name for found in regrets for name in found["regret"]))
    means = {}
    for arm in arms:
        values = [found["regret"][arm] for found in regrets if arm in found["regret"]]
        mean, worst = round(statistics.mean(values), 2), round(max(values), 2)
        means[arm] = {"settings": len(values), "mean": mean, "worst": worst}
    content = {"settings": regrets, "regret": means}
    (HERE / "summary.json").write_text(json.dumps(content, indent=1) + "\n")
    for line in format_table(settings):
        print(line)
    for arm, found in means.items():
        print(f"regret of {arm}: mean {found['mean']}, worst {found['worst']} points over {found['settings']} settings")
    draw(settings).savefig(HERE / "summary.png", dpi=110)


def compute_regret(setting: dict[str, Any]) -> dict[str, Any]:
    """Return every arm's distance in points to the best arm, over the seeds that all of them have."""
    rows = {arm["name"]: {row["seed"]: row["test"] for row in arm["seeds"]} for arm in setting["arms"]}
    equal = {name: found for name, found in rows.items() if name not in OTHERS}
    seeds = sorted(set.intersection(*(set(found) for found in equal.values())))
    means = {name: statistics.mean(found[seed] for seed in seeds) for name, found in equal.items()}
    best = max(means.values())
    return {
        "setting": setting["setting"],
        "tier": get_tier(setting),
        "epochs": setting["epochs"],
        "seeds": len(seeds),
        "best": max(means, key=means.__getitem__),
        "regret": {name: round(best - mean, 2) for name, mean in means.items()},
    }


def get_tier(setting: dict[str, Any]) -> str:
    """Return the tier of a setting and the exponent of its search, if there is one; `example` for the built-in one."""
    capacity = f", capacity {setting['capacity']:g}" if setting.get("capacity") else ""
    return setting.get("tier", "example") + capacity


def format_table(settings: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table: a row per setting, a column per arm."""
    arms = list(dict.fromkeys(arm["name"] for setting in settings for arm in setting["arms"]))
    lines = ["| setting | epochs | " + " | ".join(arms) + " |", "| --- " * (len(arms) + 2) + "|"]
    for setting in settings:
        cells = {arm["name"]: format_cell([row["test"] for row in arm["seeds"]]) for arm in setting["arms"]}
        for item in setting["paired"]:
            if item["low"] is not None:
                cells[item["arm"]] += f" [{item['difference']:+.2f}: {item['low']} to {item['high']}]"
        row = " | ".join(cells.get(arm, "") for arm in arms)
        lines.append(f"| {setting['setting']}, {get_tier(setting)} | {setting['epochs']:g} | {row} |")
    return lines


def format_cell(values: list[float]) -> str:
    """Return mean, standard deviation and number of seeds of accuracies in %."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} ({len(values)})"


def draw(settings: list[dict[str, Any]]) -> Figure:
    """Draw the accuracies of every arm, a panel per setting, a dot per seed."""
    figure = Figure(figsize=(9, 1.9 * len(settings) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(settings), 1, squeeze=False)[:, 0]
    for panel, setting in zip(panels, settings, strict=True):
        names = [arm["name"] for arm in setting["arms"]]
        for place, arm in enumerate(setting["arms"]):
            values = [row["test"] for row in arm["seeds"]]
            panel.plot(values, [place] * len(values), "o", color=COLORS.get(arm["name"], "tab:gray"))
            panel.plot(statistics.mean(values), place, "|", markersize=16, color="black")
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.grid(axis="x", alpha=0.3)
        panel.set_title(f"{setting['setting']}, {get_tier(setting)}, {setting['epochs']:g} epochs", fontsize=10)
    panels[-1].set_xlabel("test accuracy after training, % (a dot is one seed, a bar their mean)")
    return figure


if __name__ == "__main__":
    main()
