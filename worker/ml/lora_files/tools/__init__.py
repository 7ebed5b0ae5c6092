"""LoRAs made of LoRAs, or of two checkpoints: convert, resize, merge, extract."""
