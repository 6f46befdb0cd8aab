"""The chain that trains the starter model, and the generator of what it learns from."""
