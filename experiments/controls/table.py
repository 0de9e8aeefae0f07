"""Print comparisons side by side, as Markdown: test accuracy of each method, and the lead of the search.

    python experiments/controls/table.py JSON [JSON ...]

JSON are files that run.py or tuned.py wrote. Each accuracy is a mean over the seeds, followed by the lead of the search
with its 95 % interval.
"""

import json
import sys
from pathlib import Path
from typing import Any

NAMES = {
    "blended": "blended search",
    "single criterion": "best single criterion",
    "single criterion in the best allocation": "best single criterion in the best allocation",
    "equal blend": "equal blend, uniform or global",
    "random": "random search",
    "legr": "LeGR",
    "torch-pruning": "Torch-Pruning, the better of global and local",
}


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    columns = [read_column(Path(name)) for name in sys.argv[1:]]
    print("| | " + " | ".join(Path(name).stem for name in sys.argv[1:]) + " |")
    print("| --- |" + " --- |" * len(columns))
    for name in dict.fromkeys(name for found in columns for name in found):
        print(f"| {NAMES.get(name, name)} | " + " | ".join(found.get(name, "") for found in columns) + " |")


def read_column(path: Path) -> dict[str, str]:
    """Read the cells of a column, by method."""
    found = json.loads(path.read_text(encoding="utf-8"))
    # tuned.py keeps every network by its method, and a table beside them
    rows = found["table"] if "table" in found else found["methods"]
    return {row["name"]: format_cell(row) for row in rows}


def format_cell(row: dict[str, Any]) -> str:
    accuracy = row.get("test_accuracy", row)
    spread = f" ± {100 * accuracy['deviation']:.2f}" if accuracy["deviation"] is not None else ""
    text = f"{100 * accuracy['mean']:.2f}{spread} %"
    lead = row.get("difference")
    if lead and lead["mean"] is not None:
        half = f" ± {100 * lead['half_width']:.2f}" if lead["half_width"] is not None else ", one seed"
        text += f" ({100 * lead['mean']:+.2f}{half})"
    return text


if __name__ == "__main__":
    main()
