"""Ray's metrics of a search, read from the node's endpoint as Prometheus would."""

import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from ports import free_ports

from blendsearch.cli.main import main
from blendsearch.engine.ray_connection import authenticate
from blendsearch.runs.run import open_run

FIGURE = re.compile(r"^ray_blendsearch_(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)


def figures(port: int) -> dict[str, dict[str, float]]:
    """Return, per metric, its value by relevant tags."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, tags, value in FIGURE.findall(text):
        named = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        key = "/".join(named[tag] for tag in ("run", "status", "fidelity", "le") if tag in named)
        found.setdefault(name, {})[key] = float(value)
    return found


@pytest.mark.slow
def test_a_search_on_ray_exports_metrics(
    quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("prometheus_client", reason="the extra cluster is not installed")
    authenticate("local")
    # Ray's own pace of reporting is ten seconds
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    import ray

    (port,) = free_ports(1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _metrics_export_port=port)
    try:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(quick))
        main(["search", str(path), "--runs", str(tmp_path), "--name", "seen", "--ray", "local"])
        rows = open_run(tmp_path, "seen").open_store(read_only=True)
        summary = rows.read_generations()[-1]["summary"]
        evaluations = {"seen/done": 30 + 1 + len(rows.read_tests())}
        for _ in range(60):  # the last of them are exported a while after the search has ended
            found = figures(port)
            if found.get("evaluations_total") == evaluations and "hypervolume" in found:
                break
            time.sleep(1)
    finally:
        ray.shutdown()
    assert found["evaluations_total"] == evaluations
    assert found["evaluation_seconds_count"]["seen/recalibrated"] >= 30
    assert found["best_loss"] == {"seen": pytest.approx(summary["best_loss"])}
    assert found["hypervolume"] == {"seen": pytest.approx(summary["hypervolume"])}
    assert found["workers"] == {"seen": 2} and found["queue"]["seen"] >= 0
