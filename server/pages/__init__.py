"""What the server shows beside its tools: resources, prompts, and completions for their arguments."""
