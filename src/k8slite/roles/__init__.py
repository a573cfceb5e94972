"""Roles: the shells. Each takes a snapshot, calls a pure function and applies its plan."""
