"""What a run would take, before it is made: shards, files, bytes, arithmetic, memory and time."""
