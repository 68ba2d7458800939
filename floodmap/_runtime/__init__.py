"""What has nothing to do with floods: memory, threads, files."""
