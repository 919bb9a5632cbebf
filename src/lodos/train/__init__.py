"""The training loop: steps, hooks, checkpoints. It knows nothing of LoRA: it sees a tree of booleans."""
