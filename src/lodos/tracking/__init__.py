"""Where the numbers of a run go: a file, a terminal, TensorBoard, Trackio, Weights & Biases."""
