"""Decoders: one implementation, and a small file for each Hugging Face `model_type`."""
