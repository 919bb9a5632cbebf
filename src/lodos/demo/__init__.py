"""What `lodos demo` needs: a small base model, and a task at which it fails until it is fine-tuned."""
