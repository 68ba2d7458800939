"""Helpers without any knowledge of floods: memory, threads, processes, files."""
