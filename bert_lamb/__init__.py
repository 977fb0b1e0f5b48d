"""Pretraining BERT at very large batch with LAMB (arXiv 1904.00962), reproducibly."""

__version__ = "0.2.0"
