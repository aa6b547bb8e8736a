"""What an experiment is: specs, results, vocabulary, domain facts. Imports pydantic and nothing below it."""
