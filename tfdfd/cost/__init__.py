"""What networks cost on this machine, measured now: latency, CPU time, memory, size on disk."""
