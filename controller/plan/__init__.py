"""What the user wants: plans as frozen values, checked whole and costed before any beam."""
