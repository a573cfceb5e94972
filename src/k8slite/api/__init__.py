"""API: structs, scheme, codec, conversion, defaults, validation, selectors, patch, tables.

Law: pure. Values in, values out; no clock, no randomness, no I/O. A kind is declared once, in
its folder under ``kinds``; everything else follows from that table.
"""
