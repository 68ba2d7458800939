"""Review of a result by a person: places that are worth a look, and edits that are taken back into the result."""
