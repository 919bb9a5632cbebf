"""What is on disk: Hugging Face model folders, PEFT adapter folders, safetensors files, GGUF."""
