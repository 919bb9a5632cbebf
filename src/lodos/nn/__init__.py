"""Layers: small Equinox modules over `[tokens, features]`, with Hugging Face's names and weight layout."""
