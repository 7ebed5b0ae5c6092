"""What LoRA files are, by their bytes, names and shapes alone: no tensor library is needed here."""
