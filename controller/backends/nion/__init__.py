"""Nion columns (and usim, their simulator) from inside a running Nion Swift."""
