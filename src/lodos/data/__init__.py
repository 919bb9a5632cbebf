"""Rows of a file to batches of tokens: sources -> formats -> tokenize -> packing -> loader."""
