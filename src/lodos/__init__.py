"""LoRA fine-tuning of language models in JAX."""
