"""What the files of this project promise one another, checked without an engine."""
