"""The files in deploy/ are of the form that their readers want, and say what is so of the service."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.turns.supervisor import SETTLING_TRIES
from tests.support.serving import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
VARIABLES = {*Settings.__struct_encode_fields__, "FORWARDED_ALLOW_IPS"}  # the last is Uvicorn's
# From SIGTERM to the end: requests, or turns and then what is left of them, whichever takes longer.
PATIENCE = Patience()
END_SECONDS = max(PATIENCE.grace, PATIENCE.drain) + PATIENCE.settle * SETTLING_TRIES


def manifests() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


class TestKubernetes:
    @pytest.mark.parametrize("kind", manifests())
    def test_is_valid(self, kind: str) -> None:
        kubernetes_validate.validate(manifests()[kind], kubernetes_validate.latest_version(), strict=True)

    def test_has_all_that_it_takes(self) -> None:
        assert set(manifests()) == {
            "ConfigMap",
            "Job",
            "Deployment",
            "Service",
            "PodDisruptionBudget",
            "HorizontalPodAutoscaler",
        }

    def test_sets_variables_that_there_are(self) -> None:
        assert manifests()["ConfigMap"]["data"].keys() <= VARIABLES

    def test_asks_health_where_it_is(self) -> None:
        [container] = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
        probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
        assert [probe["path"] for probe in probes] == ["/health/ready", "/health/live", "/health/live"]
        assert (
            {probe["port"] for probe in probes} == {port["name"] for port in container["ports"]} == {"http"}
        )
        assert [port["containerPort"] for port in container["ports"]] == [image_environ()["PORT"]]

    def test_gives_time_to_end(self) -> None:
        pod = manifests()["Deployment"]["spec"]["template"]["spec"]
        [_, _, sleep] = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        before = int(re.findall(r"sleep\((\d+)\)", sleep)[0])
        assert pod["terminationGracePeriodSeconds"] >= before + END_SECONDS

    def test_runs_as_the_user_of_the_image_and_writes_nothing(self) -> None:
        user = int(re.findall(r"^USER (\d+)", (REPOSITORY / "Containerfile").read_text(), re.MULTILINE)[0])
        for kind in ("Job", "Deployment"):
            pod = manifests()[kind]["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsUser"] == user
            assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
        pod = manifests()["Deployment"]["spec"]["template"]["spec"]
        [mounted] = pod["containers"][0]["volumeMounts"]
        assert (mounted["mountPath"], pod["volumes"][0]["name"]) == ("/tmp", mounted["name"])

    def test_job_and_pods_are_told_the_same(self) -> None:
        for kind in ("Job", "Deployment"):
            [container] = manifests()[kind]["spec"]["template"]["spec"]["containers"]
            assert container["envFrom"] == [
                {"configMapRef": {"name": "chatapi"}},
                {"secretRef": {"name": "chatapi"}},
            ]
        assert manifests()["ConfigMap"]["metadata"]["name"] == "chatapi"

    def test_a_node_can_be_emptied_at_the_least_scale(self) -> None:
        kept = manifests()["PodDisruptionBudget"]["spec"]["minAvailable"]
        assert 0 < kept < manifests()["HorizontalPodAutoscaler"]["spec"]["minReplicas"]

    def test_prometheus_finds_the_pods_by_what_they_are_called(self) -> None:
        [job] = yaml.safe_load((DEPLOY / "prometheus/kubernetes.yml").read_text())["scrape_configs"]
        template = manifests()["Deployment"]["spec"]["template"]
        [port] = template["spec"]["containers"][0]["ports"]
        assert job["relabel_configs"][0]["regex"] == f"{template['metadata']['labels']['app']};{port['name']}"

    def test_each_selects_the_pods_of_the_deployment(self) -> None:
        labels = manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert manifests()["Service"]["spec"]["selector"] == labels
        assert manifests()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
        assert manifests()["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "chatapi"


def image_environ() -> dict[str, Any]:
    found = dict(re.findall(r"\b(PORT|HOST)=(\S+)", (REPOSITORY / "Containerfile").read_text()))
    return {**found, "PORT": int(found["PORT"])}


def test_the_image_listens_to_all_of_its_host() -> None:
    assert image_environ()["HOST"] == "0.0.0.0"


class TestCompose:
    @pytest.fixture
    def compose(self) -> Any:
        return yaml.safe_load((DEPLOY / "compose.yaml").read_text())

    def test_is_valid(self) -> None:
        checked = subprocess.run(
            [
                sys.executable,
                "-m",
                "check_jsonschema",
                "--builtin-schema",
                "vendor.compose-spec",
                "compose.yaml",
            ],
            cwd=DEPLOY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout

    def test_sets_variables_that_there_are(self, compose: Any) -> None:
        for name in ("one", "two", "migrate"):
            assert compose["services"][name]["environment"].keys() <= VARIABLES

    def test_writes_nothing_and_waits_for_the_migration(self, compose: Any) -> None:
        assert compose["services"]["migrate"]["read_only"] is True
        for name in ("one", "two"):
            service = compose["services"][name]
            assert (service["read_only"], service["tmpfs"]) == (True, ["/tmp"])
            assert service["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}

    def test_gives_time_to_end(self, compose: Any) -> None:
        assert int(compose["services"]["one"]["stop_grace_period"].removesuffix("s")) >= END_SECONDS

    def test_mounts_files_that_there_are(self, compose: Any) -> None:
        mounted = [
            volume.split(":")[0]
            for each in compose["services"].values()
            for volume in each.get("volumes", [])
        ]
        files = [path for path in mounted if path.startswith("./")]
        assert len(files) == 2
        assert all((DEPLOY / path).is_file() for path in files)

    def test_the_proxy_asks_replicas_that_there_are(self, compose: Any) -> None:
        proxy = (DEPLOY / "haproxy.cfg").read_text()
        replicas = re.findall(r"^    server \S+ (\S+):(\d+)$", proxy, re.MULTILINE)
        each = [(name, str(image_environ()["PORT"])) for name in ("one", "two")]
        assert replicas == each * 2, "in each backend"
        assert {name for name, _ in replicas} <= compose["services"].keys()
        assert re.findall(r"httpchk GET (\S+)", proxy) == ["/health/ready"]


class TestLock:
    """`make lock` was run since a dependency changed. It has what the image has: the service, and the extra `otel`."""

    def locked(self) -> dict[str, str]:
        text = (REPOSITORY / "requirements.lock").read_text()
        return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[.*\])?==([^\s;]+)", text, re.MULTILINE))

    def wanted(self) -> Iterator[Requirement]:
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        for each in (project["dependencies"], project["optional-dependencies"]["otel"]):
            yield from (Requirement(text) for text in each)

    def test_has_every_dependency_in_a_version_that_is_wanted(self) -> None:
        locked = self.locked()
        for requirement in self.wanted():
            if requirement.name != "chatapi":
                name = requirement.name.lower().replace("_", "-")
                assert requirement.specifier.contains(locked[name]), f"{requirement}: run make lock"

    @pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
    def test_is_by_hash_and_says_no_place(self, name: str) -> None:
        text = (REPOSITORY / name).read_text()
        pinned = re.findall(r"^\S+==\S+.*\\\n    --hash=sha256:", text, re.MULTILINE)
        assert len(pinned) == len(re.findall(r"^\S+==", text, re.MULTILINE)) > 0
        assert not re.search(r"://|--index|--find-links|^-", text, re.MULTILINE)
