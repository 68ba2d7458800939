"""HTML pages: each is one file that opens offline."""
