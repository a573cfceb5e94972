"""The cluster's certificate authority: whom it vouches for, and the files that say so.

Law: an edge. It makes and reads keys and certificates and decides nothing about who may do what.
"""
