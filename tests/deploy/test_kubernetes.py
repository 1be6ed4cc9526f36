"""The Kubernetes manifests, rendered: held against the schema and against themselves."""

import copy
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from atril_common.settings import load_settings
from atril_gateway.settings import GatewaySettings
from atril_inference.settings import InferenceSettings

Manifest = dict[str, Any]
KUBERNETES = "1.32"
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|Ki|Mi|Gi|Ti|k|M|G|T)?")
FACTOR = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip


@pytest.fixture(scope="module")
def manifests(root: Path, require_tool: Callable[[str], str]) -> list[Manifest]:
    """The base as kustomize renders it."""
    command = [require_tool("kubectl"), "kustomize", root / "deploy/kubernetes/base"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def _of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [m for m in manifests if m["kind"] in kinds]


def _workloads(manifests: list[Manifest]) -> list[Manifest]:
    return _of_kind(manifests, "Deployment", "Job")


def _pod(workload: Manifest) -> Manifest:
    return dict(workload["spec"]["template"]["spec"])


def _containers(workload: Manifest) -> list[Manifest]:
    return [*_pod(workload)["containers"], *_pod(workload).get("initContainers", [])]


def _ports(workload: Manifest) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for container in _pod(workload)["containers"]
        for port in container.get("ports", [])
    }


def _selected(manifests: list[Manifest], selector: dict[str, str]) -> list[Manifest]:
    return [
        workload
        for workload in _workloads(manifests)
        if selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    ]


def _amount(quantity: str) -> float | None:
    match = QUANTITY.fullmatch(str(quantity))
    return None if match is None else float(match[1]) * FACTOR[match[2] or ""]


def _wrong_selectors(manifests: list[Manifest]) -> Iterator[str]:
    """Selectors that choose no pods, or the pods of more than one workload."""
    selectors = {
        "Deployment": lambda m: [m["spec"]["selector"]["matchLabels"]],
        "Service": lambda m: [m["spec"]["selector"]],
        "PodDisruptionBudget": lambda m: [m["spec"]["selector"]["matchLabels"]],
        "NetworkPolicy": lambda m: [
            m["spec"]["podSelector"]["matchLabels"],
            *(
                peer["podSelector"]["matchLabels"]
                for rule in m["spec"]["ingress"]
                for peer in rule.get("from", [])
            ),
        ],
    }
    for manifest in _of_kind(manifests, *selectors):
        for selector in selectors[manifest["kind"]](manifest):
            if len(_selected(manifests, selector)) != 1:
                yield f"{manifest['kind']} {manifest['metadata']['name']} selects not one workload"
    for workload in _of_kind(manifests, "Deployment"):
        for spread in _pod(workload)["topologySpreadConstraints"]:
            if spread["labelSelector"] != workload["spec"]["selector"]:
                yield f"{workload['metadata']['name']} spreads other pods than its own"


def _wrong_service_ports(manifests: list[Manifest]) -> Iterator[str]:
    """Ports that a Service leads to and no container has."""
    for service in _of_kind(manifests, "Service"):
        for workload in _selected(manifests, service["spec"]["selector"]):
            for port in service["spec"]["ports"]:
                if port["targetPort"] not in _ports(workload):
                    yield f"Service {service['metadata']['name']} leads to {port['targetPort']}"


def _wrong_policy_ports(manifests: list[Manifest]) -> Iterator[str]:
    """Ports that a policy opens and no container has."""
    for policy in _of_kind(manifests, "NetworkPolicy"):
        opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        for workload in _selected(manifests, policy["spec"]["podSelector"]["matchLabels"]):
            for port in opened - set(_ports(workload)):
                yield f"NetworkPolicy {policy['metadata']['name']} opens {port}"


def _wrong_probe_ports(manifests: list[Manifest]) -> Iterator[str]:
    """Ports that are probed or scraped and that no container has."""
    for workload in _of_kind(manifests, "Deployment"):
        ports, name = _ports(workload), workload["metadata"]["name"]
        probed = {(probe.get("httpGet") or probe["grpc"])["port"] for probe in _probes(workload)}
        for port in probed - set(ports) - set(ports.values()):
            yield f"{name} is probed at {port}"
        annotations = workload["spec"]["template"]["metadata"]["annotations"]
        if int(annotations["prometheus.io/port"]) != ports["metrics"]:
            yield f"{name} is scraped at {annotations['prometheus.io/port']}"


def _probes(workload: Manifest) -> list[Manifest]:
    return [
        container[probe]
        for container in _pod(workload)["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    ]


def _dangling_references(manifests: list[Manifest]) -> Iterator[str]:
    """Claims, maps and volumes that are named and not there."""
    claims = {m["metadata"]["name"] for m in _of_kind(manifests, "PersistentVolumeClaim")}
    maps = {m["metadata"]["name"] for m in _of_kind(manifests, "ConfigMap")}
    for workload in _workloads(manifests):
        volumes = {volume["name"]: volume for volume in _pod(workload)["volumes"]}
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in claims:
                yield f"{workload['metadata']['name']} claims {claim}"
        for container in _containers(workload):
            for mount in container["volumeMounts"]:
                if mount["name"] not in volumes:
                    yield f"{container['name']} mounts {mount['name']}"
            for source in container.get("envFrom", []):
                if source["configMapRef"]["name"] not in maps:
                    yield f"{container['name']} reads {source['configMapRef']['name']}"


def _wrong_quantities(manifests: list[Manifest]) -> Iterator[str]:
    """Quantities that do not parse, requests above limits, containers without either."""
    for workload in _workloads(manifests):
        for container in _containers(workload):
            resources, name = container.get("resources", {}), container["name"]
            for resource in ("cpu", "memory"):
                request = _amount(resources.get("requests", {}).get(resource, ""))
                limit = _amount(resources.get("limits", {}).get(resource, ""))
                if request is None or limit is None or request > limit:
                    yield f"{name} asks for {resource} {resources}"
        for volume in _pod(workload)["volumes"]:
            if "emptyDir" in volume and _amount(volume["emptyDir"].get("sizeLimit", "")) is None:
                yield f"{volume['name']} has no limit that parses"


def _wrong_names(manifests: list[Manifest]) -> Iterator[str]:
    """Names that the cluster refuses, and two of a kind."""
    seen: set[tuple[str, str]] = set()
    for manifest in manifests:
        key = manifest["kind"], manifest["metadata"]["name"]
        if not NAME.fullmatch(key[1]):
            yield f"{key[0]} cannot be called {key[1]}"
        if key in seen:
            yield f"two {key[0]} are called {key[1]}"
        seen.add(key)


def _unconfined(manifests: list[Manifest]) -> Iterator[str]:
    """Pods and containers with more rights than they need."""
    for workload in _workloads(manifests):
        pod, name = _pod(workload), workload["metadata"]["name"]
        security = pod["securityContext"]
        if not security["runAsNonRoot"] or security["seccompProfile"]["type"] != "RuntimeDefault":
            yield f"{name} may run as root or without seccomp"
        if pod["automountServiceAccountToken"] or pod["enableServiceLinks"]:
            yield f"{name} is given a token, or variables that settings would refuse"
        for container in _containers(workload):
            if container["securityContext"] != {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }:
                yield f"{container['name']} is not confined"


CHECKS = {
    check.__name__.removeprefix("_"): check
    for check in (
        _wrong_selectors,
        _wrong_service_ports,
        _wrong_policy_ports,
        _wrong_probe_ports,
        _dangling_references,
        _wrong_quantities,
        _wrong_names,
        _unconfined,
    )
}


@pytest.mark.parametrize("check", CHECKS)
def test_manifests_agree_with_each_other(check: str, manifests: list[Manifest]) -> None:
    """What the schema cannot see holds: selectors, ports, references, quantities, names, rights."""
    assert list(CHECKS[check](manifests)) == []


def _seed(path: str, value: object) -> Callable[[list[Manifest]], None]:
    """An edit: `Kind/name/key/…`, numbers being positions in lists; a name may be a beginning."""

    def edit(manifests: list[Manifest]) -> None:
        kind, name, *keys, last = path.split("/")
        at: Any = next(
            m for m in _of_kind(manifests, kind) if m["metadata"]["name"].startswith(name)
        )
        for key in keys:
            at = at[int(key)] if isinstance(at, list) else at[key.replace("|", "/")]
        at[int(last) if isinstance(at, list) else last.replace("|", "/")] = value

    return edit


_GATEWAY = "Deployment/gateway/spec/template/spec/containers/0"


@pytest.mark.parametrize(
    ("check", "path", "value"),
    [
        ("wrong_selectors", "Service/gateway/spec/selector/app.kubernetes.io|name", "gatway"),
        (
            "wrong_selectors",
            "PodDisruptionBudget/inference/spec/selector/matchLabels/app.kubernetes.io|name",
            "inferense",
        ),
        ("wrong_service_ports", "Service/gateway/spec/ports/0/targetPort", "web"),
        ("wrong_policy_ports", "NetworkPolicy/inference/spec/ingress/1/ports/0/port", "prometheus"),
        ("wrong_probe_ports", f"{_GATEWAY}/readinessProbe/httpGet/port", 8080),
        ("dangling_references", "PersistentVolumeClaim/models/metadata/name", "model"),
        ("dangling_references", "ConfigMap/atril-gateway/metadata/name", "gateway"),
        ("wrong_quantities", f"{_GATEWAY}/resources/limits/memory", "256Mb!"),
        ("wrong_quantities", f"{_GATEWAY}/resources/requests/cpu", "3"),
        ("wrong_names", "Service/gateway/metadata/name", "Gate_way"),
        ("wrong_names", "Service/gateway/metadata/name", "inference-headless"),
        ("unconfined", f"{_GATEWAY}/securityContext/readOnlyRootFilesystem", False),
        ("unconfined", "Job/train/spec/template/spec/enableServiceLinks", True),
    ],
)
def test_checks_see_what_they_are_for(
    check: str, path: str, value: object, manifests: list[Manifest]
) -> None:
    """Each check objects to an error of its kind put in on purpose."""
    broken = copy.deepcopy(manifests)
    _seed(path, value)(broken)
    assert list(CHECKS[check](broken)) != []


def test_manifests_fit_the_schema(manifests: list[Manifest]) -> None:
    """Every document is valid, and no field of it is unknown, under a schema that exists."""
    for manifest in manifests:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_schema_is_missed_where_there_is_none(manifests: list[Manifest]) -> None:
    """A removed API version is an error here, not a warning that passes."""
    stale = copy.deepcopy(_of_kind(manifests, "PodDisruptionBudget")[0])
    stale["apiVersion"] = "policy/v1beta1"
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate(stale, KUBERNETES, strict=True)


def test_images_are_pinned_to_the_version(manifests: list[Manifest], version: str) -> None:
    """Every container runs an image of this version."""
    images = {c["image"] for workload in _workloads(manifests) for c in _containers(workload)}
    assert images == {f"atril/{name}:{version}" for name in ("gateway", "inference", "training")}


@pytest.fixture
def settings(
    manifests: list[Manifest],
    image_environment: Callable[[str], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[GatewaySettings, InferenceSettings]:
    """What the services would read: the images' variables, over them the config maps'."""
    declared = image_environment("gateway") | image_environment("inference")
    for config_map in _of_kind(manifests, "ConfigMap"):
        declared |= config_map["data"]
    for name, value in declared.items():
        monkeypatch.setenv(name, value)
    return load_settings(GatewaySettings), load_settings(InferenceSettings)


def test_settings_lead_to_the_ports_that_are_declared(
    manifests: list[Manifest], settings: tuple[GatewaySettings, InferenceSettings]
) -> None:
    """The config maps hold known settings, and the containers' ports are what they amount to."""
    deployments = {m["metadata"]["name"]: m for m in _of_kind(manifests, "Deployment")}
    for service, read in zip(("gateway", "inference"), settings, strict=True):
        assert _ports(deployments[service]) == {
            "http": read.http_port,
            "grpc": read.grpc_port,
            "metrics": read.metrics_port,
        }


def test_the_gateway_balances_over_a_headless_service(
    manifests: list[Manifest], settings: tuple[GatewaySettings, InferenceSettings]
) -> None:
    """The upstream is a Service without a cluster IP, at the port that inference listens on."""
    gateway, inference = settings
    host, port = gateway.replicas.split(":")
    service = next(m for m in _of_kind(manifests, "Service") if m["metadata"]["name"] == host)
    assert service["spec"]["clusterIP"] == "None"
    assert int(port) == inference.grpc_port
    assert int(port) in {p["port"] for p in service["spec"]["ports"]}


def test_termination_leaves_time_for_the_drain(
    manifests: list[Manifest], settings: tuple[GatewaySettings, InferenceSettings]
) -> None:
    """A pod is killed only after the drain and the longest request; a drain outlasts a probe."""
    gateway, inference = settings
    drains = {"gateway": gateway.drain_s, "inference": inference.drain_s}
    for workload in _of_kind(manifests, "Deployment"):
        drain_s = drains[workload["metadata"]["name"]]
        grace_s = _pod(workload)["terminationGracePeriodSeconds"]
        assert grace_s > drain_s + gateway.request_timeout_s
        probe = _pod(workload)["containers"][0]["readinessProbe"]
        assert drain_s > probe["periodSeconds"] * probe["failureThreshold"]


def test_only_training_writes_models(manifests: list[Manifest]) -> None:
    """The claim is mounted read-only everywhere but where it is published to."""
    writers = {
        container["name"]
        for workload in _workloads(manifests)
        for container in _containers(workload)
        for mount in container["volumeMounts"]
        if mount["name"] == "models" and not mount.get("readOnly", False)
    }
    assert writers == {"train"}
