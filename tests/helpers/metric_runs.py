"""Copies of a run with the metric of another task."""

import json
import shutil
from pathlib import Path
from typing import Any

METRICS: dict[str, Any] = {
    "map": {"name": "mAP", "higher": True, "share": True},
    "psnr": {"name": "PSNR", "higher": True, "share": False},
    "rmse": {"name": "RMSE", "higher": False, "share": False},
}


def copy_with_metric(run: Path, to: Path, name: str, *, higher: bool, share: bool) -> None:
    """Copy a run, as if ``task.evaluate`` had returned `name`; a metric that is no share is stored as loss."""
    shutil.copytree(run, to)
    facts: dict[str, Any] = json.loads((to / "run.json").read_text())
    facts["config"]["task"] |= {"evaluate": "my:own", "metric": "higher" if higher else "lower", "name": name}
    facts["structure"] |= {"error": share, **({"metric": name} if share else {})}
    (to / "run.json").write_text(json.dumps(facts))
