"""An embedded Azure Functions host for laptops and CI: HTTP triggers and Durable Functions, with no other service."""
