"""SecurityContextDeny: pods may not choose whom they run as.

The fields are those of v0.17's ``plugin/pkg/admission/securitycontext/scdeny``, and the pod-wide
ones that came later.
"""

from __future__ import annotations

from k8slite.api.kinds.pod.types import Pod


def refuse(pod: Pod) -> str | None:
    """Which field ``pod`` may not set; None when it sets none."""
    whole = pod.spec.security_context
    if whole is not None:
        if whole.supplemental_groups:
            return "pod.Spec.SecurityContext.SupplementalGroups is forbidden"
        if whole.se_linux_options is not None:
            return "pod.Spec.SecurityContext.SELinuxOptions is forbidden"
        if whole.run_as_user is not None:
            return "pod.Spec.SecurityContext.RunAsUser is forbidden"
        if whole.fs_group is not None:
            return "pod.Spec.SecurityContext.FSGroup is forbidden"
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        own = container.security_context
        if own is None:
            continue
        if own.se_linux_options is not None:
            return f"SecurityContext.SELinuxOptions is forbidden (container {container.name})"
        if own.run_as_user is not None:
            return f"SecurityContext.RunAsUser is forbidden (container {container.name})"
    return None
