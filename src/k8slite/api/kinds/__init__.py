"""Every kind, one folder each. To add a kind, add its folder and name it here."""

from __future__ import annotations

from k8slite.api.kinds.binding import BINDING
from k8slite.api.kinds.componentstatus import COMPONENT_STATUS
from k8slite.api.kinds.configmap import CONFIG_MAP
from k8slite.api.kinds.endpoints import ENDPOINTS
from k8slite.api.kinds.event import EVENT
from k8slite.api.kinds.limitrange import LIMIT_RANGE
from k8slite.api.kinds.namespace import NAMESPACE
from k8slite.api.kinds.node import NODE
from k8slite.api.kinds.pod import POD
from k8slite.api.kinds.podtemplate import POD_TEMPLATE
from k8slite.api.kinds.replicationcontroller import REPLICATION_CONTROLLER
from k8slite.api.kinds.resourcequota import RESOURCE_QUOTA
from k8slite.api.kinds.secret import SECRET
from k8slite.api.kinds.service import SERVICE
from k8slite.api.kinds.serviceaccount import SERVICE_ACCOUNT
from k8slite.api.scheme import Scheme

SCHEME = Scheme(
    (
        NAMESPACE,
        NODE,
        POD,
        REPLICATION_CONTROLLER,
        SERVICE,
        ENDPOINTS,
        EVENT,
        SECRET,
        CONFIG_MAP,
        LIMIT_RANGE,
        RESOURCE_QUOTA,
        SERVICE_ACCOUNT,
        POD_TEMPLATE,
        COMPONENT_STATUS,
        BINDING,
    )
)

__all__ = [
    "SCHEME",
    "BINDING",
    "COMPONENT_STATUS",
    "CONFIG_MAP",
    "ENDPOINTS",
    "EVENT",
    "LIMIT_RANGE",
    "NAMESPACE",
    "NODE",
    "POD",
    "POD_TEMPLATE",
    "REPLICATION_CONTROLLER",
    "RESOURCE_QUOTA",
    "SECRET",
    "SERVICE",
    "SERVICE_ACCOUNT",
]
