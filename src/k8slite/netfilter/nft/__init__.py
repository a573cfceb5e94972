"""The portals in a table of our own in nftables: found in constant time, however many there are."""
