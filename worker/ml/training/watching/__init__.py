"""What is measured, drawn and said on the way."""
