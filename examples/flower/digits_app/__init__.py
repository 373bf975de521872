"""A complete Flower app: a federation of digits, two classes at each client, FedAuto at the server."""
