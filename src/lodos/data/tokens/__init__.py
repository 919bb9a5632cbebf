"""Text becomes tokens, in parallel, and is kept on disk."""
