"""Kit: clock, tasks, work queue, back-off, broadcast.

Law: the only room that may touch time, randomness and ids; it knows nothing of Kubernetes.
"""
