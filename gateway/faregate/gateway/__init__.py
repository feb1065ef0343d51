"""What people and programs call: the HTTP gateway (contract: HTTP)."""
