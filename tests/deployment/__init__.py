"""The deployment on a real Docker engine: `make docker-test`."""
