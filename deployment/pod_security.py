"""The restricted profile of Kubernetes' Pod Security Standards, as a check of rendered objects.

Source: kubernetes.io, "Pod Security Standards"; every control of the profiles baseline and
restricted that a Pod of this chart could break.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"),
    *("projected", "secret"),
}
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")

Object = Mapping[str, Any]


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every Pod, or template of Pods, among objects, by its kind and name."""
    for each in objects:
        name = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            yield name, each["spec"]
        elif "template" in each.get("spec", {}):
            yield name, each["spec"]["template"]["spec"]


def violations(pod: Object) -> Iterator[str]:
    """What the restricted profile would refuse in the specification of a Pod."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} is true"
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is of the kind {', '.join(kinds - _VOLUMES)}"
    context = pod.get("securityContext", {})
    for sysctl in context.get("sysctls", []):
        yield f"sysctl {sysctl['name']}"
    for kind in _CONTAINERS:
        for container in pod.get(kind, []):
            for found in _of_container(container, context):
                yield f"container {container['name']}: {found}"


def _of_container(container: Object, of_pod: Object) -> Iterator[str]:
    own: Object = container.get("securityContext", {})
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities: Object = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities are not dropped"
    if added := set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"capabilities are added: {', '.join(sorted(added))}"
    if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if own.get("runAsUser", of_pod.get("runAsUser")) == 0:
        yield "runAsUser is 0"
    profile: Object = own.get("seccompProfile", of_pod.get("seccompProfile", {}))
    if profile.get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is not RuntimeDefault"
    if own.get("procMount", "Default") != "Default":
        yield "procMount is not Default"
    for port in container.get("ports", []):
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']}"


def beyond_the_profile(pod: Object) -> Iterator[str]:
    """What this chart promises besides: a read-only root, a numeric user, no token, no links."""
    if pod.get("automountServiceAccountToken") is not False:
        yield "the token of its service account is mounted"
    if pod.get("enableServiceLinks") is not False:
        yield "service links would add variables that are no settings"
    if not pod.get("securityContext", {}).get("runAsUser"):
        yield "its user has no number"
    for kind in _CONTAINERS:
        for container in pod.get(kind, []):
            if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
                yield f"container {container['name']}: its root can be written to"
            if "memory" not in container.get("resources", {}).get("limits", {}):
                yield f"container {container['name']}: its memory has no limit"
