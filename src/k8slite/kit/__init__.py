"""Kit: clock, tasks, work queue, back-off.

Law: the only room that may touch time, randomness and ids; it knows nothing of Kubernetes.
"""
