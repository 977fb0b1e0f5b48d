"""The raw text of a slice to clean documents, and what is no document to rejects with their reasons.

Uses reading and world.
"""
