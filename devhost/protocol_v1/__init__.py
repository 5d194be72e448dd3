"""What goes to and comes from ``azure-functions-durable`` 1.x: JSON in triggers, bindings and the management API."""
