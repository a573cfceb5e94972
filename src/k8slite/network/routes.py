"""Which links, neighbours and routes a node needs to reach the pods of the others. Pure."""
