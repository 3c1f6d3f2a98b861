"""Any column that SerialEM drives, through its Python module; never run on hardware."""
