"""Input files to byte slices that any number of processes can read: what there is, how it is packed, where it is cut.

Uses world, for the embedded corpus.
"""
