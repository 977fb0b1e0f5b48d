"""Pretraining and fine-tuning put together: what a step uses, where a phase begins, what is saved.

May import run, tasks and everything below; never planning or reporting.
"""
