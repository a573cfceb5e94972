"""Deploy: putting a cluster on hosts and taking it off again without a trace.

Law: ``footprint`` and ``report`` are pure; ``host`` is the edge to one machine; ``local`` is the
shell that brings up and takes down a cluster of this machine alone.
"""
