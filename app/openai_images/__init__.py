"""The OpenAI images API over our own generations, so that its clients work by their address."""
