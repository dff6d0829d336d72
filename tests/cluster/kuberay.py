"""The schemas of KubeRay's RayCluster and RayJob (ray.io/v1, operator 1.5.1), for checking files without Kubernetes.

The published schemas are in no package, so what follows is written after the Go types that they are generated from
(ray-operator/apis/ray/v1), as far as a user's file goes. Pods are checked against Kubernetes' own schemas, and the
parameters of `ray start` against its options.
"""

from __future__ import annotations

from typing import Any

import jsonschema
import kubernetes_validate
from ray.scripts.scripts import start

KUBERNETES = "1.33"

_TEXT, _FLAG, _MAP = {"type": "string"}, {"type": "boolean"}, {"type": "object"}
_COUNT = {"type": "integer", "minimum": 0}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


_CLUSTER = _object(
    "headGroupSpec",
    suspend=_FLAG,
    managedBy={"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]},
    authOptions=_object(secretName=_TEXT, mode={"enum": ["disabled", "token"]}),
    upgradeStrategy=_object(type={"enum": ["Recreate", "None"]}),
    autoscalerOptions=_object(
        resources=_MAP,
        image=_TEXT,
        imagePullPolicy=_TEXT,
        securityContext=_MAP,
        idleTimeoutSeconds=_COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        version={"enum": ["v1", "v2"]},
        env={"type": "array"},
        envFrom={"type": "array"},
        volumeMounts={"type": "array"},
    ),
    headServiceAnnotations=_TEXTS,
    enableInTreeAutoscaling=_FLAG,
    gcsFaultToleranceOptions=_MAP,
    headGroupSpec=_object(
        "template rayStartParams",
        template=_MAP,
        headService=_MAP,
        enableIngress=_FLAG,
        rayStartParams=_TEXTS,
        serviceType=_TEXT,
    ),
    rayVersion=_TEXT,
    workerGroupSpecs={
        "type": "array",
        "items": _object(
            "groupName minReplicas maxReplicas rayStartParams template",
            suspend=_FLAG,
            groupName=_TEXT,
            replicas=_COUNT,
            minReplicas=_COUNT,
            maxReplicas=_COUNT,
            idleTimeoutSeconds=_COUNT,
            rayStartParams=_TEXTS,
            template=_MAP,
            scaleStrategy=_object(workersToDelete={"type": "array", "items": _TEXT}),
            numOfHosts=_COUNT,
        ),
    },
)
_JOB = _object(
    "rayClusterSpec",
    activeDeadlineSeconds=_COUNT,
    backoffLimit=_COUNT,
    rayClusterSpec=_CLUSTER,
    submitterPodTemplate=_MAP,
    metadata=_TEXTS,
    clusterSelector=_TEXTS,
    submitterConfig=_object(backoffLimit=_COUNT),
    managedBy=_TEXT,
    entrypoint=_TEXT,
    runtimeEnvYAML=_TEXT,
    jobId=_TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    entrypointResources=_TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    ttlSecondsAfterFinished=_COUNT,
    shutdownAfterJobFinishes=_FLAG,
    suspend=_FLAG,
)
_KINDS = {"RayCluster": _CLUSTER, "RayJob": _JOB}


def check(document: dict[str, Any]) -> None:
    """Raise an exception if Kubernetes with KubeRay would not take this, or not as it is meant."""
    schema = _object(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"enum": list(_KINDS)},
        metadata=_object("name", name=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS),
        spec=_KINDS.get(document.get("kind", ""), _MAP),
    )
    jsonschema.validate(document, schema)
    spec = document["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    options = {name.removeprefix("--") for option in start.params for name in option.opts}
    for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", ())):
        kubernetes_validate.validate(
            {
                "apiVersion": "v1",
                "kind": "PodTemplate",
                "metadata": {"name": "x"},
                "template": group["template"],
            },
            KUBERNETES,
            strict=True,
        )
        if unknown := set(group["rayStartParams"]) - options:
            raise ValueError(f"`ray start` has no option {', '.join(unknown)}")
