"""An index as a service: an HTTP API, and a page to speak into."""
