"""Client: one protocol to read and write objects; informers; the event recorder.

Law: an edge. Shells are written against ``client.base``; whether a call crosses a socket or stays
in the process is not theirs to know.
"""
