"""The service proxy: portals in userspace, one listener for each service port."""

from k8slite.roles.proxy.proxy import Proxy

__all__ = ["Proxy"]
