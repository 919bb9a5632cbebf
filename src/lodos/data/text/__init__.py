"""A row becomes text of which some characters are to be learned: formats, prompts, chat templates."""
