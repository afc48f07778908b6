"""Local attention: every query sees a window around itself."""
