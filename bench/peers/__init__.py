"""What runs in the contestants' processes. torch and PEFT are imported here only, and only by their own peers."""
