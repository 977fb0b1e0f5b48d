"""What a run will cost, and what would stop it, before it starts.

May import run, tasks and everything below; never training or reporting.
"""
