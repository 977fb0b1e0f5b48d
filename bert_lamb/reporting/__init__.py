"""Tables and figures, read from run folders and token stores alone.

May import run, tasks and everything below; never training or planning.
"""
