"""What a run would take: shards, files, bytes, memory, time."""
