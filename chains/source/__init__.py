"""The text of a chain: YAML with the place of every key and value, files by name, problems at their place."""
