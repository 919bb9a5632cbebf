"""Tokens become batches: padded or packed, shuffled, read ahead."""
