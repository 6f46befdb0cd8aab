"""Parts of a run that other processes do: what a part is, how it is sent, waited for, and done there.

A part is some steps of a run over some of its rows. Only its name travels; rows, prompts and answers stay in
the store.
"""
