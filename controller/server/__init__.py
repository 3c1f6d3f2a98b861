"""Where an adapter, the guard and the files of a run are put together into a session."""
