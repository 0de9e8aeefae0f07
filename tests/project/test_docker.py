"""Files for containers: their tools accept them, and their commands parse. No image is built here."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from blendsearch.cli.parser import make_parser
from blendsearch.engine.ray_connection import HEALTH_CHECK_ENVIRONMENT
from blendsearch.runs.config.loading import DIGITS, load_config

DOCKER = Path(__file__).parents[2] / "docker"


def tool(name: str) -> str:
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed here")
    return str(path)


def test_the_image_is_linted() -> None:
    ignored = ["--ignore", "DL3006"]  # the base image is an argument, with a tag
    done = subprocess.run([tool("hadolint"), *ignored, str(DOCKER / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.cpu.yaml"]])
def test_the_compose_files_are_valid(files: list[str]) -> None:
    chosen = [word for file in files for word in ("-f", str(DOCKER / file))]
    done = subprocess.run([tool("docker-compose"), *chosen, "config"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole = yaml.safe_load(done.stdout)
    assert whole["services"]["head"]["ports"][0]["host_ip"] == "127.0.0.1"
    reserved = whole["services"]["worker"].get("deploy")
    assert bool(reserved) == (len(files) == 1)
    for node in whole["services"].values():
        assert node["environment"].items() >= (HEALTH_CHECK_ENVIRONMENT | {"RAY_AUTH_MODE": "token"}).items()


def test_the_job_on_kubernetes_has_an_entry_point_that_resumes() -> None:
    volume, job = yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text())
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "blendsearch"]
    arguments = make_parser().parse_args(words[3:])
    assert arguments.or_resume and arguments.name and arguments.ray == "auto"
    load_config(DIGITS, arguments.set)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        environment = {item["name"]: item["value"] for item in group["template"]["spec"]["containers"][0]["env"]}
        assert environment == HEALTH_CHECK_ENVIRONMENT
    head = cluster["headGroupSpec"]["template"]["spec"]
    claims = [item["persistentVolumeClaim"]["claimName"] for item in head["volumes"] if "persistentVolumeClaim" in item]
    assert claims == [volume["metadata"]["name"]]
    assert str(arguments.runs) in [item["mountPath"] for item in head["containers"][0]["volumeMounts"]]
