"""Chains that ship with Headrace: each folder holds a chain.yaml and what it names."""
