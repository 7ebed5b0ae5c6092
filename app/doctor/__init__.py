"""Whether an installation is well: what `lorawright doctor` asks, and what it says to do.

Nothing here changes rows or customers' objects: what could be mended without a person (orphans,
lost jobs, silent queues) the sweeper mends already, and the rest is a choice between losing a row
and finding its bytes.
"""
