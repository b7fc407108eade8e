"""Pages in a browser: what people do with them, with and without JavaScript, and what hostile text does not do."""
