"""General helpers that are independent of floods and imagery: memory, threads, processes, files."""
