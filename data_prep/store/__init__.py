"""A token store from its plan to its manifest: on many processes, resumed after a kill, repaired.

Uses shards, text, reading and world.
"""
