"""Tasks: prompts that a model answers by some means, each beside a control without that means."""
