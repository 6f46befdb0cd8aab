"""Chain files in and out: `load`, `find_chain`, `restore`, `to_yaml`."""

from chains.loading.chain_file import ChainFile
from chains.loading.reading import find_chain, load, load_source
from chains.loading.restoring import restore, restore_edited
from chains.loading.writing import to_yaml

__all__ = ["ChainFile", "find_chain", "load", "load_source", "restore", "restore_edited", "to_yaml"]
