"""How a model is asked, and the file that says so beside what was trained."""
