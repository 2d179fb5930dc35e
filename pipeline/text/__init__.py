"""Text: vocabularies, categories, prompts and passages."""
