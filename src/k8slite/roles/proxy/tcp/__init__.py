"""TCP through this process: clients come in at a gate, attempts connect, streams move bytes."""
