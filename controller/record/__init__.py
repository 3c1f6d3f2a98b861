"""What happened: an append-only journal, the pictures, and the report made from both."""
