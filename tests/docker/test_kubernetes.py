"""Kubernetes' manifests: valid kinds, the flags of services.toml, no root, and nobody reaches whom they need not."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from .conftest import options

HERE = Path(__file__).resolve().parent
DOCKER = HERE.parent.parent / "docker"
FIELDS = json.loads((HERE / "kuberay_fields.json").read_text(encoding="utf-8"))["types"]
VERSIONS = ["1.30.0", "1.37.0"]
WRAPPED = {  # a part that KubeRay embeds -> a kind of Kubernetes' own that holds it
    "PodTemplateSpec": lambda part: {"apiVersion": "v1", "kind": "PodTemplate", "template": part},
    "ResourceRequirements": lambda part: pod({"resources": part}),
    "SecurityContext": lambda part: pod({"securityContext": part}),
}


def pod(container: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "x", "image": "x", **container}]}}


def faults(value: Any, kind: str, where: str) -> Iterator[str]:
    """What a value has that its KubeRay type has not, and the other way round."""
    if kind in WRAPPED:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(WRAPPED[kind](value), version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{where}: {error.message}"
    elif kind.startswith("["):
        for number, each in enumerate(value):
            yield from faults(each, kind[1:-1], f"{where}[{number}]")
    elif kind in FIELDS:
        fields = FIELDS[kind]
        yield from (f"{where}: unknown field {name}" for name in value if name not in fields)
        for name, wanted in fields.items():
            if name in value:
                yield from faults(value[name], wanted.rstrip("!"), f"{where}.{name}")
            elif wanted.endswith("!"):
                yield f"{where}: {name} is missing"
    elif not fits(value, kind):
        yield f"{where}: {value!r} is not {kind}"


def fits(value: Any, kind: str) -> bool:
    if kind == "strings":
        return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    if "|" in kind:
        return value in kind.split("|")
    plain = {"string": str, "boolean": bool, "object": dict, "integer": int}[kind]
    return isinstance(value, plain) and (plain is not int or not isinstance(value, bool))


def of_kind(manifests: list[dict[str, Any]], *kinds: str) -> dict[str, dict[str, Any]]:
    return {m["metadata"].get("name", m["metadata"].get("generateName")): m for m in manifests if m["kind"] in kinds}


def templates(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every pod template, by what it makes."""
    found = {n: m["spec"]["template"] for n, m in of_kind(manifests, "StatefulSet", "Deployment", "Job").items()}
    cluster = of_kind(manifests, "RayCluster")["sweeps"]["spec"]
    found["ray-head"] = cluster["headGroupSpec"]["template"]
    found |= {f"ray-worker {group['groupName']}": group["template"] for group in cluster["workerGroupSpecs"]}
    return found | {"submitter": of_kind(manifests, "RayJob")["sweep-"]["spec"]["submitterPodTemplate"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_own_kinds_fit_their_schema(manifests: list[dict[str, Any]], version: str) -> None:
    own = [manifest for manifest in manifests if not manifest["apiVersion"].startswith("ray.io/")]
    assert len(own) == 17
    for manifest in own:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_kuberay_s_kinds_fit_their_fields(manifests: list[dict[str, Any]]) -> None:
    theirs = [manifest for manifest in manifests if manifest["apiVersion"] == "ray.io/v1"]
    assert sorted(manifest["kind"] for manifest in theirs) == ["RayCluster", "RayJob"]
    assert [fault for manifest in theirs for fault in faults(manifest, manifest["kind"], manifest["kind"])] == []


def test_the_check_of_kuberay_s_kinds_finds_faults(manifests: list[dict[str, Any]]) -> None:
    broken = copy.deepcopy(of_kind(manifests, "RayCluster")["sweeps"])
    broken["spec"]["authOptions"]["mode"] = "basic"
    del broken["spec"]["workerGroupSpecs"][0]["maxReplicas"]
    broken["spec"]["workerGroupSpecs"][1]["maxReplica"] = 3
    broken["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    broken["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    found = "\n".join(faults(broken, "RayCluster", "RayCluster"))
    for told in ("'basic' is not", "maxReplicas is missing", "unknown field maxReplica", "'num-cpus': 0", "imagee"):
        assert told in found


def test_commands_probes_and_variables_are_the_shared_ones(
    manifests: list[dict[str, Any]], services: Any, env: dict[str, str]
) -> None:
    settings = of_kind(manifests, "ConfigMap")["sweeps-mlflow"]["data"]
    named = templates(manifests)
    del named["submitter"]
    assert {name.split()[0] for name in named} == set(services.services) - {"driver"}
    for name, template in named.items():
        service = services.services[name.split()[0]]
        (container,) = template["spec"]["containers"]
        if not service.name.startswith("ray-"):
            assert container.get("command", container.get("args")) == services.command(service.name)
        for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
            if probe in container:
                assert container[probe]["exec"]["command"] == services.health(service.name)
        assert ("readinessProbe" in container) == bool(service.health)
        given = {each["name"]: each.get("value") for each in container["env"]}
        fixed = {k: v for k, v in given.items() if v is not None and k != "PGDATA"}
        wanted = services.environment(service.name, env)
        by_operator = {"RAY_AUTH_MODE"} if service.name.startswith("ray-") else set()  # authOptions
        assert fixed == {k: wanted[k] for k in service.environment if k not in by_operator}, name
        sources = [each.get("configMapRef", {}).get("name") for each in container.get("envFrom", [])]
        assert ("sweeps-mlflow" in sources) == bool(service.settings)
        if service.settings:
            assert settings == {k: v for k, v in wanted.items() if k in service.settings}


def test_ray_starts_with_the_shared_flags(manifests: list[dict[str, Any]], services: Any) -> None:
    cluster = of_kind(manifests, "RayCluster")["sweeps"]["spec"]
    operators = {"head", "block", "address"}  # the operator adds these itself
    head = {k: v for k, v in options(services.command("ray-head")).items() if k not in operators}
    assert cluster["headGroupSpec"]["rayStartParams"] == head
    worker = {k: v for k, v in options(services.command("ray-worker")).items() if k not in operators}
    for group in cluster["workerGroupSpecs"]:
        assert group["rayStartParams"] == worker


def test_secrets_go_where_services_says(manifests: list[dict[str, Any]], services: Any) -> None:
    for name, template in templates(manifests).items():
        (container,) = template["spec"]["containers"]
        whole = {each["secretRef"]["name"] for each in container.get("envFrom", []) if "secretRef" in each}
        single = {
            (each["valueFrom"]["secretKeyRef"]["name"], each["name"])
            for each in container.get("env", [])
            if "valueFrom" in each
        }
        if name == "submitter":
            assert (whole, single) == (set(), {("sweeps-ray-token", "RAY_AUTH_TOKEN")})
            continue
        service = services.services[name.split()[0]]
        rest = set(service.secrets) - {"RAY_AUTH_TOKEN"}  # authOptions
        if single:
            assert (whole, single) == (set(), {(f"sweeps-{service.name}", variable) for variable in rest}), name
        else:
            assert whole == ({f"sweeps-{service.name}"} if rest else set()), name
    auth = of_kind(manifests, "RayCluster")["sweeps"]["spec"]["authOptions"]
    assert auth == {"mode": "token", "secretName": "sweeps-ray-token"}
    assert not of_kind(manifests, "Secret")


def test_no_pod_runs_as_root_or_without_limits(manifests: list[dict[str, Any]]) -> None:
    found = templates(manifests)
    assert len(found) == 7
    for name, template in found.items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["enableServiceLinks"] is False, name  # else MLFLOW_PORT=tcp://... reaches the server
        assert spec.get("automountServiceAccountToken", name == "ray-head") == (name == "ray-head"), name
        for container in spec["containers"]:
            locked = container["securityContext"]
            assert locked["allowPrivilegeEscalation"] is False and locked["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert re.search(r":\d+\.\d+", container["image"]), name
    for name in ("postgres", "mlflow", "mlflow-login"):
        assert found[name]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True, name


def test_the_gpu_group_grows_by_itself(manifests: list[dict[str, Any]]) -> None:
    cluster = of_kind(manifests, "RayCluster")["sweeps"]["spec"]
    assert cluster["enableInTreeAutoscaling"] is True
    gpu = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}["gpu"]
    assert gpu["minReplicas"] < gpu["maxReplicas"]
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    with_gpu = [n for n, t in templates(manifests).items() if "nvidia.com/gpu" in str(t["spec"]["containers"])]
    assert with_gpu == ["ray-worker gpu"]


def test_volumes_are_claimed_and_shared_as_needed(manifests: list[dict[str, Any]], services: Any) -> None:
    claims = of_kind(manifests, "PersistentVolumeClaim")
    wanted = set()
    for name, template in templates(manifests).items():
        for volume in template["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                wanted.add(volume["persistentVolumeClaim"]["claimName"])
                mounts = {m["name"]: m["mountPath"] for m in template["spec"]["containers"][0]["volumeMounts"]}
                place = "ARTIFACTS" if name == "mlflow" else "STATE"
                assert mounts[volume["name"]] == services.places[place], name
    assert wanted == set(claims)
    assert claims["sweeps-state"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_kustomization_has_every_file_but_the_sweep() -> None:
    kustomization = yaml.safe_load((DOCKER / "kustomization.yaml").read_text(encoding="utf-8"))
    files = {f"kubernetes/{file.name}" for file in (DOCKER / "kubernetes").glob("*.yaml")}
    assert set(kustomization["resources"]) == files - {"kubernetes/sweep.yaml"}
    (roles,) = kustomization["configMapGenerator"]
    assert (roles["name"], roles["files"]) == ("sweeps-postgres-roles", ["postgres/roles.sql"])
    assert (DOCKER / "postgres" / "roles.sql").is_file()


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    plain = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return plain and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))


def allowed(policies: list[dict[str, Any]], side: str, own: dict[str, str], other: dict[str, str], port: int) -> bool:
    """Whether the policies of one namespace let a pod take (Ingress, from) or make (Egress, to) a connection."""
    peers = {"Ingress": "from", "Egress": "to"}[side]
    rules = [
        rule
        for policy in policies
        if side in policy["spec"]["policyTypes"] and matches(policy["spec"]["podSelector"], own)
        for rule in policy["spec"].get(side.lower(), [])
    ]
    return any(
        (peers not in rule or any(matches(peer["podSelector"], other) for peer in rule[peers]))
        and ("ports" not in rule or port in [each["port"] for each in rule["ports"]])
        for rule in rules
    )


def test_who_can_reach_what_is_this_and_no_more(manifests: list[dict[str, Any]]) -> None:
    policies = list(of_kind(manifests, "NetworkPolicy").values())
    assert policies[0]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    pods = {name.split()[0]: template["metadata"]["labels"] for name, template in templates(manifests).items()}
    pods |= {"stranger": {"app": "stranger"}, "operator": {"app.kubernetes.io/name": "kuberay-operator"}}
    outside = {"operator"}  # another namespace: only our side's policies hold for it
    reached = {
        (source, target, port)
        for source, from_ in pods.items()
        for target, to in pods.items()
        for port in (5432, 5000, 8265, 6379)
        if source != target
        and (source in outside or allowed(policies, "Egress", from_, to, port))
        and (target not in outside and allowed(policies, "Ingress", to, from_, port))
    }
    between_nodes = {
        (one, other, port)
        for one, other in (("ray-head", "ray-worker"), ("ray-worker", "ray-head"))
        for port in (5432, 5000, 8265, 6379)  # no PostgreSQL or MLflow listens there
    }
    assert reached == between_nodes | {
        ("mlflow", "postgres", 5432),
        ("ray-head", "postgres", 5432),
        ("ray-head", "mlflow", 5000),
        ("mlflow-login", "mlflow", 5000),
        ("submitter", "ray-head", 8265),
        ("operator", "ray-head", 8265),
    }
