"""Documents to the files of one shard: token ids, and BERT's pairs as spans of them.

Uses text, reading and world.
"""
