"""Delta and Iceberg tables that follow the release pointer: one commit for each release, one for each rollback.

following  the order of reading the pointer and committing
delta      TARGET/delta
iceberg    TARGET/iceberg, or where a catalog puts it
"""

from __future__ import annotations

from tabvae_core.lakehouse.following import follow

__all__ = ["follow"]
