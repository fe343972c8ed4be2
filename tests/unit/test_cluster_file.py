"""cluster.yaml: against the schema of Ray's launcher, against the settings, and against the files that it names."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from botocore.session import get_session
from botocore.validate import ParamValidator
from misspelt import keys, misspelt
from ray.autoscaler._private.util import prepare_config, validate_config

from pixtools.local.ray_head import PROXY_CALLBACK
from pixtools.settings import SECRETS, VARIABLES

ROOT = Path(__file__).parents[2]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
NODE_ENV = (ROOT / "deploy/aws/node.env").read_text()
EC2 = get_session().get_service_model("ec2")
MOUNTED = {f"/home/ubuntu/{path}" for path in ("pixtools", ".ray/auth_token", "pixtools-secrets")}


def faults(cluster: dict[str, Any]) -> list[str]:
    """Return what is wrong with a cluster file."""
    try:
        validate_config(prepare_config(copy.deepcopy(cluster)))
        return list(_further_faults(cluster))
    except (jsonschema.ValidationError, LookupError, ValueError, TypeError, AttributeError) as error:
        return [f"{type(error).__name__}: {error}"]


def _further_faults(cluster: dict[str, Any]) -> Iterator[str]:
    """Yield what Ray does not check. A missing key raises KeyError."""
    if missing := CLUSTER.keys() - cluster.keys():
        yield f"missing: {missing}"
    if cluster["auth"]["ssh_user"] != "ubuntu" or cluster["file_mounts"].keys() != MOUNTED:
        yield "the files are not in the home of the user"
    yield from _faults_of_nodes(cluster["available_node_types"], cluster["max_workers"])
    yield from _faults_of_provider(cluster["provider"])
    for path in re.findall(r"~/pixtools/([\w/]+\.\w+)", str(cluster)):
        if not (ROOT / path).is_file():
            yield f"there is no {path}"


def _faults_of_nodes(types: dict[str, Any], max_workers: int) -> Iterator[str]:
    workers = [types[name] for name in ("cpu-spot", "cpu-on-demand", "gpu")]
    if max_workers != sum(kind["max_workers"] for kind in workers) or any(kind["min_workers"] < 0 for kind in workers):
        yield "max_workers is not the sum of the types"
    if types["head"]["resources"] != {"CPU": 0, "GPU": 0}:
        yield "the head has room for work on pictures"
    if workers[0]["resources"].keys() != {"CPU"} or workers[0]["resources"] != workers[1]["resources"]:
        yield "a node that is no spot instance does not replace one that is"
    if workers[2]["resources"].keys() != {"CPU", "GPU"} or "setup.sh gpu" not in workers[2]["worker_setup_commands"][0]:
        yield "a node with a GPU gets no PyTorch"
    for kind in types.values():
        node = kind["node_config"]
        if not (
            node["InstanceType"] and node["ImageId"] and node["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] >= 100
        ):
            yield f"the disk is too small: {node}"
        yield from aws_faults("RunInstances", node | {"MinCount": 1, "MaxCount": 1})
    if "InstanceMarketOptions" not in workers[0]["node_config"]:
        yield "the spot instances are no spot instances"


def _faults_of_provider(provider: dict[str, Any]) -> Iterator[str]:
    if not provider["availability_zone"].startswith(provider["region"]) or provider["cache_stopped_nodes"]:
        yield "zones, or nodes that keep an old version"
    group = provider["security_group"]
    yield from aws_faults("AuthorizeSecurityGroupIngress", group)
    for rule in group["IpPermissions"]:
        if (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) != ("tcp", 22, 22):
            yield f"an open port: {rule}"
        yield from ("open to the world" for each in rule["IpRanges"] if each["CidrIp"] == "0.0.0.0/0")


def aws_faults(operation: str, parameters: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the parameters of a call of EC2, according to the model in botocore."""
    shape = EC2.operation_model(operation).input_shape
    report = ParamValidator().validate(parameters, shape)
    if report.has_errors():
        yield report.generate_report()
    yield from (f"no parameter {key}" for key in unknown(parameters, shape))


def unknown(value: Any, shape: Any) -> Iterator[str]:
    """Yield the keys of nested structures that a shape does not have. botocore ignores them below the first level."""
    if shape.type_name == "structure":
        for key, inner in value.items():
            if key in shape.members:
                yield from unknown(inner, shape.members[key])
            else:
                yield key
    elif shape.type_name == "list":
        for inner in value:
            yield from unknown(inner, shape.member)


def test_the_cluster_file_has_no_fault():
    assert faults(CLUSTER) == []


@pytest.mark.parametrize(("path", "key"), list(keys(CLUSTER)), ids=str)
def test_one_misspelt_key_is_found(path, key):
    assert faults(misspelt(CLUSTER, path, key))


def test_every_variable_of_a_node_exists_and_none_is_a_secret():
    names = set(re.findall(r"^export (\w+)=", NODE_ENV, re.MULTILINE))
    ours = {name for name in names if name.startswith("PIXTOOLS_")} - {"PIXTOOLS_SECRETS_DIR"}

    assert ours <= VARIABLES - SECRETS
    assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "PIXTOOLS_SECRETS_DIR"} <= names
    assert f"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH={PROXY_CALLBACK}\n" in NODE_ENV


def test_every_node_needs_the_token_and_the_dashboard_is_private():
    for commands in (CLUSTER["head_start_ray_commands"], CLUSTER["worker_start_ray_commands"]):
        assert commands[-1].startswith(". ~/pixtools/deploy/aws/node.env && ")
    assert "--dashboard-host=127.0.0.1" in CLUSTER["head_start_ray_commands"][-1]
