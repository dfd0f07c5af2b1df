"""What a request to the Kubernetes API means, how grave it is, and whether policy allows it: pure."""
