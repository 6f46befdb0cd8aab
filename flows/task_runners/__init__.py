"""Units of a run on a Dask or Ray cluster: each shard of a per-row step is one Prefect task there.

Only names travel; rows, prompts and answers stay in the store. What a unit does in the worker's process is
what a part of a run does.
"""
