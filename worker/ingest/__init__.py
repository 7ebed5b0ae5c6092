"""What an ingest job does to each picture: measure it, make its thumbnail."""
