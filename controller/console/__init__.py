"""The operator's console: a window on a run, in a browser.  It holds nothing that matters."""
