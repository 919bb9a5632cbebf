"""What a job takes of devices, before there are any: which there are, what a compiled step holds and moves."""
