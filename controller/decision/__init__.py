"""What to do next: pure policy over a belief folded from the journal; the loop alone acts."""
