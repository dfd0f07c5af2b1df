"""The Kubernetes plane: an agent without a cluster credential, a decision and a minted token for each request."""
