"""What a corpus and a load need: memory, disk, replicas, shards, hours and cost, from measured figures; and a simulation."""
