"""The app that the clients talk to, as in the end-to-end tests."""

from tests.e2e.conftest import app, model, state_dir

__all__ = ["app", "model", "state_dir"]
