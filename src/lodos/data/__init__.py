"""Rows of a file to batches of tokens: sources -> prompts -> tokenize -> batches -> loader."""
