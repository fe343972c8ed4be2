"""The manifests for Kubernetes: against their schemas, against the settings, and against each other."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonpatch
import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import ValidationError
from misspelt import keys, misspelt
from ray.serve.schema import ServeDeploySchema

from pixtools.settings import SECRETS, VARIABLES, Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
DOCS = (ROOT / "docs/kubernetes.md").read_text()
VERSION = "1.35"
CRD = ROOT.parent / "shared/data/schemas/ray.io_rayservices.yaml"

KUSTOMIZATION = {"apiVersion", "kind", "namespace", "resources", "patches", "images"}
MIB = {"Mi": 1, "Gi": 1024}
PARAMETERS = {"num-cpus", "object-store-memory", "dashboard-host", "disable-usage-stats", "metrics-export-port"}
NO_RIGHTS = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
RESOURCES = {"cpu", "memory", "nvidia.com/gpu"}


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


BASE = {name: documents(f"base/{name}") for name in documents("base/kustomization.yaml")[0]["resources"]}
OVERLAY = {name: documents(f"gpu/{name}") for name in ("kustomization.yaml", "rayservice.yaml")}


def with_gpu(overlay: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the RayService of the overlay: that of the base, with the patch."""
    (service,) = BASE["rayservice.yaml"]
    return jsonpatch.JsonPatch(overlay["rayservice.yaml"][0]).apply(copy.deepcopy(service))


@cache
def crd() -> jsonschema.Draft202012Validator:
    """Return a validator of RayServices that refuses unknown keys."""
    if not CRD.exists():
        pytest.skip(f"there is no {CRD}")
    versions = yaml.load(CRD.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["storage"])
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items() if key != "format"}
    if strict.pop("x-kubernetes-int-or-string", False):
        strict.pop("type", None)
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", schema["properties"].keys() == {"name"} or False)
    return strict


def faults_of_resource(resource: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a resource of Kubernetes itself."""
    try:
        kubernetes_validate.validate(resource, VERSION, strict=True)
    except (ValidationError, KeyError) as error:
        yield str(error)
    if resource.get("kind") == "ConfigMap":
        data = resource.get("data", {})
        yield from (f"unknown setting {name}" for name in data if not is_known(name))
        yield from (f"a secret: {name}" for name in SECRETS & data.keys())
        values = {name.removeprefix("PIXTOOLS_").lower(): text for name, text in data.items()}
        secrets = {"database_url": "postgresql://", "redis_url": "redis://"}
        Settings(**{name: text for name, text in values.items() if name in Settings.model_fields} | secrets)


def is_known(name: str) -> bool:
    ray = {
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV",
        "RAY_health_check_timeout_ms",
    }
    return name in VARIABLES | ray | {"PIXTOOLS_SECRETS_DIR"}


def faults_of_service(service: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a RayService."""
    yield from (f"{error.json_path}: {error.message}" for error in crd().iter_errors(service))
    if service.get("metadata") != {"name": "pixtools"}:
        yield "another name"
    try:
        yield from _further_faults(service["spec"])
    except (LookupError, TypeError, AttributeError) as error:
        yield f"missing: {error!r}"


def _further_faults(spec: dict[str, Any]) -> Iterator[str]:
    cluster = spec["rayClusterConfig"]
    yield from _faults_of_cluster(cluster)
    workers = cluster["workerGroupSpecs"]
    for group in (cluster["headGroupSpec"], *workers):
        if unknown := group["rayStartParams"].keys() - PARAMETERS:
            yield f"unknown parameters {unknown}"
        yield from _faults_of_pod(group["template"])
        (memory,) = (each for each in group["template"]["spec"]["volumes"] if each["name"] == "shared-memory")
        if int(group["rayStartParams"]["object-store-memory"]) > mib(memory["emptyDir"]["sizeLimit"]) * 2**20:
            yield "the object store does not fit into the shared memory"
    for group in workers:
        pod = group["template"]["spec"]
        *_, timeout = command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        if command[:3] != ["pixtools", "drain", "--here"] or int(timeout) + 30 > pod["terminationGracePeriodSeconds"]:
            yield "a stop does not wait for running steps"
    if not all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in workers):
        yield "a number of replicas is out of its bounds"
    pods = (group["template"]["spec"] for group in (cluster["headGroupSpec"], *workers))
    containers = [cluster["autoscalerOptions"], *(container for pod in pods for container in pod["containers"])]
    for resources in (container["resources"] for container in containers):
        if resources["requests"].keys() != resources["limits"].keys() or resources["limits"].keys() - RESOURCES:
            yield f"unknown resources {resources}"


def _faults_of_cluster(cluster: dict[str, Any]) -> Iterator[str]:
    if cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] != "0":
        yield "the head has room for work on pictures"
    if not cluster["enableInTreeAutoscaling"] or cluster["authOptions"]["mode"] != "token":
        yield "no autoscaler or no token"
    if cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"].keys() != {"name", "key"}:
        yield "no password for the state of the cluster"
    if cluster["autoscalerOptions"]["securityContext"] != NO_RIGHTS:
        yield "the autoscaler may gain rights"


def _faults_of_pod(template: dict[str, Any]) -> Iterator[str]:
    pod = template["spec"]
    try:
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"} | template["metadata"], "spec": pod},
            VERSION,
            strict=True,
        )
    except ValidationError as error:
        yield str(error)
    if template["metadata"]["labels"] != {"app.kubernetes.io/name": "pixtools"}:
        yield "the policies do not find this pod"
    if (
        not pod["securityContext"]["runAsNonRoot"]
        or pod["securityContext"]["seccompProfile"]["type"] != "RuntimeDefault"
    ):
        yield "the pod may run as root"
    (main,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for container in [main, *pod.get("initContainers", [])]:
        yield from _faults_of_container(container, volumes)
    yield from _faults_of_main(main)
    if volumes["secrets"]["secret"]["secretName"] != "pixtools-secrets":
        yield "the secrets come from another place"
    memory = volumes["shared-memory"]["emptyDir"]
    if memory["medium"] != "Memory":
        yield "Ray has no shared memory"


def _faults_of_container(container: dict[str, Any], volumes: dict[str, Any]) -> Iterator[str]:
    if container["securityContext"] != NO_RIGHTS:
        yield "a container may gain rights"
    if [each["configMapRef"]["name"] for each in container["envFrom"]] != ["pixtools-settings"]:
        yield "a container has no settings"
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    if mounted["secrets"] != SETTINGS["PIXTOOLS_SECRETS_DIR"] or not mounted.keys() <= volumes.keys():
        yield "a volume is missing"


def _faults_of_main(container: dict[str, Any]) -> Iterator[str]:
    if container["resources"]["requests"]["memory"] != container["resources"]["limits"]["memory"]:
        yield "the memory of the pod is not fixed"
    if not {"metrics", "serve"} <= {port["name"] for port in container["ports"]}:
        yield "a port is missing"


def mib(quantity: str) -> int:
    return int(quantity[:-2]) * MIB[quantity[-2:]]


SETTINGS = BASE["settings.yaml"][0]["data"]
CORE = {
    f"{name} {index}": resource
    for name, resources in BASE.items()
    for index, resource in enumerate(resources)
    if name != "rayservice.yaml"
}
each_resource = pytest.mark.parametrize("resource", CORE.values(), ids=list(CORE))


def test_every_file_is_listed_once():
    for folder in ("base", "gpu"):
        (kustomization,) = documents(f"{folder}/kustomization.yaml")
        assert kustomization.keys() <= KUSTOMIZATION
        assert all(image.keys() == {"name", "newName", "newTag"} for image in kustomization["images"])
        for patch in kustomization.get("patches", []):
            assert patch.keys() == {"path", "target"}
            assert patch["target"] == {"group": "ray.io", "version": "v1", "kind": "RayService", "name": "pixtools"}
        listed = [*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", []))]
        files = {path.name for path in (FOLDER / folder).iterdir()} - {"kustomization.yaml"}
        assert sorted(each for each in listed if each.endswith(".yaml")) == sorted(files)


@each_resource
def test_the_resources_have_no_fault(resource):
    assert list(faults_of_resource(resource)) == []


@each_resource
def test_one_misspelt_key_of_a_resource_is_found(resource):
    for path, key in keys(resource):
        if "labels" in path or "matchLabels" in path:
            continue  # any key is valid here, so the tests below compare labels
        assert list(faults_of_resource(misspelt(resource, path, key))), (path, key)


def test_the_services_have_no_fault():
    assert list(faults_of_service(BASE["rayservice.yaml"][0])) == []
    assert list(faults_of_service(with_gpu(OVERLAY))) == []


def test_one_misspelt_key_of_a_service_is_found():
    for service in (BASE["rayservice.yaml"][0], with_gpu(OVERLAY)):
        for path, key in keys(service):
            if path[-1:] == ("matchLabels",):
                continue
            assert next(faults_of_service(misspelt(service, path, key)), None), (path, key)


def serve_config(service: dict[str, Any]) -> dict[str, Any]:
    return yaml.safe_load(service["spec"]["serveConfigV2"])


def test_the_serve_configuration_is_that_of_the_project():
    project = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    for service, replica in (
        (BASE["rayservice.yaml"][0], {"num_cpus": int(SETTINGS["PIXTOOLS_DENOISE_THREADS"]), "num_gpus": 0}),
        (with_gpu(OVERLAY), {"num_cpus": 1, "num_gpus": 1}),
    ):
        expected = copy.deepcopy(project)
        expected["http_options"]["host"] = "0.0.0.0"
        ingress, denoiser = (application["deployments"][0] for application in expected["applications"])
        ingress |= {"num_replicas": 2, "max_replicas_per_node": 1, "ray_actor_options": {"num_cpus": 0.5}}
        denoiser["autoscaling_config"]["max_replicas"] = 2
        denoiser["ray_actor_options"] = replica
        assert serve_config(service) == expected
        ServeDeploySchema.model_validate(serve_config(service))


def test_the_versions_agree():
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)[1]
    (base,) = documents("base/kustomization.yaml")
    (overlay,) = documents("gpu/kustomization.yaml")
    assert [image["newTag"] for image in base["images"] + overlay["images"]] == [f"{version}-cpu", f"{version}-gpu"]
    used = {image["name"] for image in base["images"] + overlay["images"]}
    assert used == set(re.findall(r"image: (\S+)", yaml.safe_dump(with_gpu(OVERLAY))))
    ray = re.search(r"ray\[\w+\]==([\d.]+)", project)[1]
    assert BASE["rayservice.yaml"][0]["spec"]["rayClusterConfig"]["rayVersion"] == ray


def test_the_numbers_fit_the_nodes():
    cluster = with_gpu(OVERLAY)["spec"]["rayClusterConfig"]
    cpu, gpu = cluster["workerGroupSpecs"]
    limits = cpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    budget = int(SETTINGS["PIXTOOLS_NODE_MEMORY_BYTES"])
    memory = mib(limits["memory"]) * 2**20 - int(cpu["rayStartParams"]["object-store-memory"])
    assert 2_000_000_000 < memory - budget < 5_000_000_000  # for Ray, an ingress and a denoiser
    needed = int(SETTINGS["PIXTOOLS_MAX_CONVERTERS"]) + 1  # and the two ingress replicas
    assert needed <= cpu["maxReplicas"] * int(limits["cpu"]) < needed + 8
    assert cpu["minReplicas"] >= 2  # one for each ingress replica
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert (
        gpu["maxReplicas"]
        == serve_config(with_gpu(OVERLAY))["applications"][1]["deployments"][0]["autoscaling_config"]["max_replicas"]
    )


def test_only_listed_connections_are_allowed():
    deny, allow = BASE["network-policy.yaml"]
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    pods = {"matchLabels": {"app.kubernetes.io/name": "pixtools"}}
    assert allow["spec"]["podSelector"] == pods
    from_pods, *others = allow["spec"]["ingress"]
    assert from_pods == {"from": [{"podSelector": pods}]}
    ports = {port["port"] for rule in others for port in rule["ports"]}
    named = {
        port["containerPort"]
        for port in BASE["rayservice.yaml"][0]["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"][
            "containers"
        ][0]["ports"]
    }
    assert ports == {8000, 8265, 52365, 8080}
    assert BASE["rayservice.yaml"][0]["spec"]["excludeHeadPodFromServeSvc"] is True
    assert ports - {52365} <= named
    assert not {6379, 10001} & ports
    (outside,) = (
        to["ipBlock"] for rule in allow["spec"]["egress"] for to in rule["to"] if "except" in to.get("ipBlock", {})
    )
    assert outside == {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}


def test_the_namespace_refuses_pods_that_run_as_root():
    (namespace,) = BASE["namespace.yaml"]
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert documents("base/kustomization.yaml")[0]["namespace"] == namespace["metadata"]["name"]


def test_the_budgets_find_the_pods():
    found = {
        each["spec"]["selector"]["matchLabels"]["ray.io/node-type"]: each for each in BASE["disruption-budget.yaml"]
    }
    assert found.keys() == {"head", "worker"}
    assert [found[kind]["spec"]["maxUnavailable"] for kind in ("head", "worker")] == [0, 1]


def test_the_docs_name_what_exists():
    text = "\n".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    for secret in re.findall(r"secret generic (\S+)", DOCS):
        assert secret in text
    for variable in re.findall(r"PIXTOOLS_\w+", DOCS):
        assert is_known(variable), variable
    assert set(re.findall(r"deploy/kubernetes/(\w+)", DOCS)) == {"base", "gpu"}
