"""Pods on Docker Engine, through aiodocker.

Law: what is observed lives in one ``Sight``, filled by one list when the engine is (re)found and
kept current by its event stream, so that starting a pod costs create and start for each container
and nothing else. When the engine goes, ``trouble`` says so at once, nothing is forgotten, and the
connection is tried until it comes back.
"""

from k8slite.roles.kubelet.docker.runtime import PARALLEL_STARTS, DockerRuntime

__all__ = ["PARALLEL_STARTS", "DockerRuntime"]
