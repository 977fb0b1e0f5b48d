"""The embedded corpus: a seeded world of things, written out as articles, books and questions.

Uses nothing else of data_prep.
"""
