"""The store: content-addressed HDF5, shared by runs and by processes that run at once.

A value is found by what it depends on (`Key`), is there whole or not at all, and is verified before it is
used. Nothing here knows what the values mean.
"""

from concept_monitor_cli.store.atomic import (
    atomic_write,
    remove_leftovers,
    write_bytes_atomic,
    write_text_atomic,
)
from concept_monitor_cli.store.entry import Entry, Writer
from concept_monitor_cli.store.keys import KINDS, JSONValue, Key, make_key
from concept_monitor_cli.store.maintenance import DamagedEntry, KindInfo, PruneReport, StoreInfo, VerifyReport
from concept_monitor_cli.store.store import Store

__all__ = [
    "KINDS",
    "DamagedEntry",
    "Entry",
    "JSONValue",
    "Key",
    "KindInfo",
    "PruneReport",
    "Store",
    "StoreInfo",
    "VerifyReport",
    "Writer",
    "atomic_write",
    "make_key",
    "remove_leftovers",
    "write_bytes_atomic",
    "write_text_atomic",
]
