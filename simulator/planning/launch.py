"""A plan as something to start: the engines' command lines, or Kubernetes manifests."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import yaml

from hwspecs.errors import InputError
from simulator.planning.candidates import assignments, scenario_of
from simulator.planning.launchargs import CONFIG_FILE, ENGINES, POD_IP, Launch, launch_of
from simulator.planning.prices import HOURS_A_MONTH
from simulator.planning.words import deployment_words, gpu_words, usd
from workloads.engine import engine_set
from workloads.scenario import LoadedScenario

if TYPE_CHECKING:
    from simulator.planning.model import Outcome
    from simulator.planning.planner import Answer

IMAGES = {
    "vllm": "vllm/vllm-openai:v{version}",
    "sglang": "lmsysorg/sglang:v{version}",
    "trtllm": "nvidia/tensorrt-llm/release:{version}",
}
"""Container images as the engines publish them; NVIDIA's is in its own registry, whose name goes in front."""
NODE = 8
"""GPUs of a machine, where a link's domain is not smaller; those of a rack-wide domain have four."""
RACK = 4


def check_engine(loaded: LoadedScenario) -> None:
    """InputError for a scenario without an engine that could be started."""
    name = loaded.config.engine.name
    if name not in ENGINES:
        raise InputError(
            "only a named engine can be launched",
            file="--format", found=f"engine {name}", allowed=f"--set engine={'|'.join(ENGINES)}",
        )  # fmt: skip


def text(answer: Answer, *, kubernetes: bool) -> str:
    """How the best deployment is started, with what cannot be said in flags as comments."""
    best = answer.plan.best
    assert best is not None
    scenario = scenario_of(answer.base, best.candidate)
    launches = launches_of(scenario)
    engine = scenario.config.engine
    known = engine_set(engine.name, engine.version)
    head = _head(answer, best, f"{known.title} {known.version}")
    if not kubernetes:
        return (
            "\n".join(["#!/bin/sh", *_comments(head), *(line for one in launches for line in _shell(one, scenario))])
            + "\n"
        )
    parts = [_manifests(one, scenario, known.version) for one in launches]
    return (
        "\n".join([*_comments(head), *_comments(_front(scenario)), *(line for part in parts for line in part)]) + "\n"
    )


def launches_of(scenario: LoadedScenario) -> list[Launch]:
    """One for replicas, two for prefill and decode workers."""
    if scenario.pools is None:
        return [launch_of(scenario)]
    return [launch_of(pool, role) for pool, role in zip(scenario.pools, ("prefill", "decode"), strict=True)]


def _head(answer: Answer, best: Outcome, engine: str) -> list[str]:
    candidate = best.candidate
    spec = answer.base.spec if not isinstance(answer.base.spec, dict) else "SCENARIO"
    sets = [*answer.base.sets, *assignments(answer.base, candidate)]
    return [
        f"{gpu_words(candidate, answer.titles)} as {deployment_words(candidate)}",
        f"{usd(best.usd_per_hour)} USD/h, {usd(best.usd_per_hour * HOURS_A_MONTH)} USD a month; {engine}",
        "simulated by: " + shlex.join(["kinesim", "run", str(spec), *(f"--set={one}" for one in sets)]),
    ]


def _front(scenario: LoadedScenario) -> list[str]:
    """What stands in front of the engines."""
    if scenario.pools is None:
        if scenario.config.replicas == 1:
            return []
        return [
            f"requests were dealt by a {scenario.config.router} router; a Service picks an endpoint for each "
            "connection, at random",
        ]
    name = scenario.config.engine.name
    return [ROUTERS[name]]


ROUTERS = {
    "vllm": "a proxy in front sends every request to a prefill worker and then, with its KV, to a decode worker",
    "sglang": "in front: python3 -m sglang_router.launch_router --pd-disaggregation --prefill URL ... --decode URL ...",
    "trtllm": "in front: trtllm-serve disaggregated -c FILE, with the workers' URLs under context_servers and "
    "generation_servers",
}


def _comments(lines: list[str] | tuple[str, ...]) -> list[str]:
    return [f"# {line}" for line in lines]


def _shell(launch: Launch, scenario: LoadedScenario) -> list[str]:
    kind = "replica" if launch.role == "replica" else f"{launch.role} worker"
    behind = _front(scenario) if launch.role != "decode" else []
    each = f"{'each ' * (launch.count > 1)}on {launch.gpus} GPU{'s' * (launch.gpus > 1)}"
    lines = ["", f"# {launch.count} {kind}{'s' * (launch.count > 1)}, {each}", *_comments(behind)]
    lines += _comments([*launch.remarks, *_nodes(launch, scenario)])
    if launch.config is not None:
        written = yaml.safe_dump(launch.config, sort_keys=False).rstrip()
        lines += [f"mkdir -p {CONFIG_FILE.rpartition('/')[0]}", f"cat > {CONFIG_FILE} <<'END'", written, "END"]
    lines += [f"export {name}={value.replace(POD_IP, '$(hostname -i)')}" for name, value in launch.env.items()]
    words = [shlex.join(launch.command), *(shlex.join(arg) for arg in launch.args)]
    return [*lines, " \\\n  ".join(words)]


def _nodes(launch: Launch, scenario: LoadedScenario) -> list[str]:
    """What has to be said of an engine that is larger than a machine."""
    node = gpus_of_a_node(scenario)
    if launch.gpus <= node:
        return []
    return [
        f"an engine of {launch.gpus} GPUs is on {-(-launch.gpus // node)} machines of {node}: start it on each, with "
        "the engine's flags for several nodes (ranks, addresses)"
    ]


def gpus_of_a_node(scenario: LoadedScenario) -> int:
    """GPUs of one machine; ASSUMPTION: as NODE and RACK say, no file does."""
    domain = scenario.gpu.link.domain
    return RACK if domain > NODE else NODE if domain == NODE else max(domain, NODE)


def _manifests(launch: Launch, scenario: LoadedScenario, version: str) -> list[str]:
    """A Deployment, a Service and perhaps a ConfigMap, or for an engine larger than a machine its command alone."""
    remarks = [*launch.remarks, *_nodes(launch, scenario)]
    if launch.gpus > gpus_of_a_node(scenario):
        remarks.append("a Deployment's pod is on one machine: use a LeaderWorkerSet with this command")
        words = [*launch.command, *(word for arg in launch.args for word in arg)]
        return _comments([*remarks, shlex.join(words)])
    name = _label(scenario, launch)
    documents: list[dict[str, Any]] = [_deployment(launch, scenario, name, version), _service(launch, name)]
    if launch.config is not None:
        content = {"engine.yaml": yaml.safe_dump(launch.config, sort_keys=False)}
        documents.insert(0, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": content})
    remarks.append(f"nodes need {scenario.gpu.title}: add a nodeSelector where the cluster has other GPUs too")
    if scenario.gpu.vendor.lower() != "nvidia":
        remarks.append(f"the image is that for NVIDIA's GPUs: {scenario.gpu.vendor}'s need another")
    if scenario.config.engine.name == "trtllm":
        remarks.append("the image is in NVIDIA's registry, whose name goes in front of it")
    lines = _comments(remarks)
    for document in documents:
        lines += ["---", yaml.safe_dump(document, sort_keys=False, width=200).rstrip()]
    return lines


def _label(scenario: LoadedScenario, launch: Launch) -> str:
    """A DNS label of at most 63 characters."""
    base = scenario.model.name.rpartition("/")[2].lower()
    label = "".join(c if c.isascii() and c.isalnum() else "-" for c in base).strip("-") or "model"
    return label[:50].strip("-") + ("" if launch.role == "replica" else f"-{launch.role}")


def _deployment(launch: Launch, scenario: LoadedScenario, name: str, version: str) -> dict[str, Any]:
    resource = "amd.com/gpu" if scenario.gpu.vendor.lower() == "amd" else "nvidia.com/gpu"
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    # The workers of an engine talk through shared memory, of which a container has 64 MB by default.
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if launch.config is not None:
        mounts.append({"name": "config", "mountPath": CONFIG_FILE.rpartition("/")[0]})
        volumes.append({"name": "config", "configMap": {"name": name}})
    env: list[dict[str, Any]] = []
    if launch.env:
        env.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
        env += [{"name": key, "value": value} for key, value in launch.env.items()]
    container: dict[str, Any] = {
        "name": "engine",
        "image": IMAGES[scenario.config.engine.name].format(version=version),
        "command": list(launch.command),
        "args": [word for arg in launch.args for word in arg],
        "ports": [{"containerPort": launch.port, "name": "http"}],
        "resources": {"limits": {resource: launch.gpus}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10},
        "volumeMounts": mounts,
    }
    if env:
        container["env"] = env
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": launch.count,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], "volumes": volumes},
            },
        },
    }


def _service(launch: Launch, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": launch.port, "targetPort": "http"}]},
    }
